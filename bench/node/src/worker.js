'use strict'
// The worker: WORKER_THREADS loops, each with a job at a time. A loop waits in BRPOP, so it has a connection of its own.

const db = require('./db')
const { generateCsv } = require('./csv')
const { writeOutput } = require('./outputs')
const { DEAD_LETTERS, QUEUE, redis } = require('./redis')

const MAX_ATTEMPTS = 3

async function work(queue) {
  for (;;) {
    const [, id] = await queue.brpop(QUEUE, 0)
    await run(id)
  }
}

async function run(id) {
  const { rows } = await db.query(
    `UPDATE jobs SET status = 'processing', attempts = attempts + 1, updated_at = now()
     WHERE id = $1 AND status = 'pending' RETURNING payload, attempts`,
    [id],
  )
  if (rows.length === 0) return
  const [{ payload, attempts }] = rows
  try {
    const reference = await writeOutput(`${id}.csv`, generateCsv(payload))
    await db.query("UPDATE jobs SET status = 'completed', result = $2, updated_at = now() WHERE id = $1", [
      id,
      JSON.stringify(reference),
    ])
  } catch (error) {
    await fail(id, attempts, error)
  }
}

async function fail(id, attempts, error) {
  const isLast = attempts >= MAX_ATTEMPTS
  await db.query('UPDATE jobs SET status = $2, error = $3, updated_at = now() WHERE id = $1', [
    id,
    isLast ? 'failed' : 'pending',
    error.message,
  ])
  await redis.lpush(isLast ? DEAD_LETTERS : QUEUE, id)
}

for (let started = 0; started < Number(process.env.WORKER_THREADS); started += 1) {
  work(redis.duplicate())
}
