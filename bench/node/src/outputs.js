'use strict'
// Whole files only: written under a temporary name, synced, renamed, and the folder synced.

const { randomBytes } = require('node:crypto')
const { mkdir, open, rename, rm } = require('node:fs/promises')
const path = require('node:path')

const FOLDER = process.env.OUTPUT_DIR
const INCOMPLETE = path.join(FOLDER, '.incomplete')

async function writeOutput(name, content) {
  await mkdir(INCOMPLETE, { recursive: true })
  const temporary = path.join(INCOMPLETE, `${name}.${randomBytes(8).toString('hex')}.tmp`)
  try {
    await writeSynced(temporary, content)
    await rename(temporary, path.join(FOLDER, name))
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await syncFolder()
  return `output/${name}`
}

async function writeSynced(file, content) {
  const handle = await open(file, 'wx', 0o644)
  try {
    await handle.writeFile(content)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function syncFolder() {
  const handle = await open(FOLDER, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

module.exports = { writeOutput }
