'use strict'

// What a spreadsheet would run as a formula gets an apostrophe in front. A signed number is none.
const FORMULA = /^\s*[=+\-@]/
const SIGNED_NUMBER = /^[+-]\d+([.,]\d+)*(e[+-]?\d+)?$/i
const NEEDS_QUOTES = /[",\r\n]/

function generateCsv(payload) {
  if (!Array.isArray(payload)) return text([['key', 'value'], ...Object.entries(payload)])
  const header = [...new Set(payload.flatMap(Object.keys))]
  if (header.length === 0) return ''
  return text([header, ...payload.map((row) => header.map((column) => row[column]))])
}

function text(rows) {
  return rows.map((row) => `${row.map(cell).join(',')}\n`).join('')
}

function cell(value) {
  if (value === null || value === undefined) return ''
  const plain = typeof value === 'string' ? neutralise(value) : JSON.stringify(value)
  return NEEDS_QUOTES.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain
}

function neutralise(value) {
  return FORMULA.test(value) && !SIGNED_NUMBER.test(value) ? `'${value}` : value
}

module.exports = { generateCsv }
