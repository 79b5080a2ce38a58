-- The keys of the API's callers. While there is no row, no key is needed. A revoked key stays, so that revoking the last
-- one does not open the API.

CREATE TABLE api_keys (
  -- The part of a key that may be seen. The secret that follows it is stored nowhere.
  prefix TEXT PRIMARY KEY,
  -- SHA-256. Secrets have 256 random bits, so that a slow hash would make none of them harder to guess.
  secret_hash BYTEA NOT NULL CHECK (length(secret_hash) = 32),
  -- Of the caller. Several keys may have one name.
  name TEXT NOT NULL,
  scopes TEXT[] NOT NULL,
  -- Requests per second. NULL: RATE_LIMIT_PER_SECOND.
  rate_limit INTEGER CHECK (rate_limit > 0),
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  expires_at TIMESTAMPTZ,
  revoked_at TIMESTAMPTZ,
  -- Written once an hour at most.
  last_used_at TIMESTAMPTZ
);
