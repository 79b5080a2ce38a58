-- What became of the jobs that a redrive of many has run again (docs/decisions/0043).

-- step: adding a column to jobs
ALTER TABLE jobs
  -- The last redrive of many that has run the job again. NULL: none.
  ADD COLUMN redrive_id UUID;

-- step without transaction: building jobs_of_redrives
-- A job that was never redriven costs nothing here.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_of_redrives
  ON jobs (redrive_id, status, finished_at) WHERE redrive_id IS NOT NULL;
