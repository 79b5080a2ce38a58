'use strict'
// A pool for each process, of the default size.

const { Pool } = require('pg')

const pool = new Pool({ connectionString: process.env.DATABASE_URL })
// Without a listener, an idle connection that PostgreSQL ends would end the process.
pool.on('error', (error) => console.error('an idle connection to PostgreSQL was lost:', error.message))

module.exports = pool
