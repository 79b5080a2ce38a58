'use strict'

const { Redis } = require('ioredis')

module.exports = {
  QUEUE: 'job_queue',
  DEAD_LETTERS: 'job_dlq',
  redis: new Redis(process.env.REDIS_URL),
}
