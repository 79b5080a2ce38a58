-- What the code of an attempt says while it runs: how far it is, and its log lines. Only attempts that say something have
-- a row, which is deleted with the job.

-- step: creating attempt_notes
CREATE TABLE attempt_notes (
  job_id UUID NOT NULL,
  lease UUID NOT NULL,
  attempt INTEGER NOT NULL,
  started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  -- Counts the writes, so that one that is sent twice is told once.
  version INTEGER NOT NULL,
  progress JSONB,
  lines JSONB NOT NULL DEFAULT '[]',
  lines_omitted INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (job_id, lease)
);
