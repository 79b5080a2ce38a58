-- Jobs that wait for a server that is away, and which servers those are.

-- step: adding columns to jobs
ALTER TABLE jobs
  -- The server that a deferred job waits for; empty if it waits for its own date alone.
  ADD COLUMN waits_for TEXT,
  -- How many times in a row it was deferred. The next wait grows with it.
  ADD COLUMN deferrals INTEGER NOT NULL DEFAULT 0,
  -- Since when it is deferred: how long it may be is counted from here.
  ADD COLUMN deferred_since TIMESTAMPTZ,
  -- As MAX_ATTEMPTS is by default, for rows that are inserted by hand.
  ALTER COLUMN max_attempts SET DEFAULT 8;

-- step: creating servers
-- One row for each server that is known to be away. It may be deleted at any time: the next attempt finds out again.
CREATE TABLE servers (
  name TEXT PRIMARY KEY,
  away_since TIMESTAMPTZ NOT NULL DEFAULT now(),
  -- What the last attempt heard.
  error TEXT NOT NULL,
  -- Not asked before this, and then by the prober: the one job that may.
  probe_at TIMESTAMPTZ NOT NULL,
  prober UUID
);

-- step without transaction: building jobs_deferred
-- Who waits for which server, the first to come first. Only such jobs cost anything here.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_deferred
  ON jobs (waits_for, run_at) WHERE status = 'pending' AND waits_for IS NOT NULL;
