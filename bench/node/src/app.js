'use strict'
// The API: one Express application in each of API_PROCESSES processes, which share one port.

const cluster = require('node:cluster')
const express = require('express')
const jobs = require('./routes/jobs')

if (cluster.isPrimary) {
  for (let started = 0; started < Number(process.env.API_PROCESSES); started += 1) cluster.fork()
  cluster.on('exit', (worker) => {
    if (!worker.exitedAfterDisconnect) cluster.fork()
  })
} else {
  const app = express()
  app.use(express.json())
  app.use('/jobs', jobs)
  app.listen(Number(process.env.API_PORT), process.env.API_HOST)
}
