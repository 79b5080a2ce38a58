-- What happened to jobs, for clients that watch. A transition writes its rows in the statement that changes the jobs: one
-- row for all jobs of a statement that have the same type, queue and status.

-- step: creating job_events
CREATE TABLE job_events (
  -- The transaction. A reader has read all rows that its last snapshot sees, in whatever order they were committed.
  xact XID8 NOT NULL DEFAULT pg_current_xact_id(),
  -- The order of events. Of two events of one job, the later has the greater number.
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  name TEXT NOT NULL,
  type TEXT NOT NULL,
  queue TEXT NOT NULL,
  status TEXT NOT NULL,
  job_ids UUID[] NOT NULL,
  attempts INTEGER[] NOT NULL,
  details JSONB,
  PRIMARY KEY (xact, id)
);

-- step: creating job_events_horizon
-- The last transaction of which events were deleted: who has not read as far has missed events.
CREATE TABLE job_events_horizon (
  is_only BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (is_only),
  xact XID8 NOT NULL
);

-- step: filling job_events_horizon
INSERT INTO job_events_horizon (xact) VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
