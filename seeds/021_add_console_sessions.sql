-- Who is signed in to the console: a browser's cookie has the token, and the session may what its key may. It ends with
-- the key.

CREATE TABLE console_sessions (
  -- SHA-256 of the token, which is stored nowhere.
  token_hash BYTEA PRIMARY KEY CHECK (length(token_hash) = 32),
  key_prefix TEXT NOT NULL REFERENCES api_keys (prefix) ON DELETE CASCADE,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  expires_at TIMESTAMPTZ NOT NULL,
  -- Its index finds the sessions of a key.
  UNIQUE (key_prefix, token_hash)
);
