'use strict'

const { randomUUID } = require('node:crypto')
const express = require('express')
const db = require('../db')
const { QUEUE, redis } = require('../redis')

const TYPES = new Set(['csv-generation'])
const router = express.Router()

// Express 5 answers 500 when the promise is rejected.
router.post('/', async (req, res) => {
  const { type, payload } = req.body ?? {}
  if (!TYPES.has(type) || payload === null || typeof payload !== 'object') {
    return res.status(400).json({ error: 'expected a known type and a payload' })
  }
  const id = randomUUID()
  await db.query("INSERT INTO jobs (id, type, status, payload) VALUES ($1, $2, 'pending', $3)", [
    id,
    type,
    JSON.stringify(payload),
  ])
  await redis.lpush(QUEUE, id)
  return res.status(201).json({ job_id: id, status: 'pending' })
})

module.exports = router
