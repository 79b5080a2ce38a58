-- What a client may ask of a job, and what a person said about it. Nullable and without defaults, so the table is not
-- rewritten, and a row without them takes no more room.

ALTER TABLE jobs
  ADD COLUMN tags TEXT[],
  -- In place of the type's time limit.
  ADD COLUMN timeout_seconds INTEGER,
  -- The job that this one repeats with another payload.
  ADD COLUMN retry_of UUID,
  ADD COLUMN cancel_reason TEXT;
