-- Idempotency-Key: the answers to requests that created something, kept to be sent again. A row is written in the same
-- transaction as what its request created; a request in flight has no row that others see, but an advisory lock.

-- step: adding idempotency_keys
CREATE TABLE idempotency_keys (
  -- A key belongs to a caller and a path.
  caller TEXT NOT NULL,
  path TEXT NOT NULL,
  key TEXT NOT NULL,
  -- SHA-256 of the request.
  fingerprint BYTEA NOT NULL,
  -- Names the request that wrote the row, so that it recognises the row when its reply was lost.
  token UUID NOT NULL,
  -- The answer.
  status SMALLINT NOT NULL,
  location TEXT,
  body BYTEA NOT NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (caller, path, key)
);

-- step without transaction: building idempotency_keys_by_age
CREATE INDEX CONCURRENTLY IF NOT EXISTS idempotency_keys_by_age ON idempotency_keys (created_at);
