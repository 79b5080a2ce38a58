-- Which code a worker process runs, so that a deployment that is half done can be seen.

ALTER TABLE workers
  -- Written with the row. NULL: a worker of a version that does not tell.
  ADD COLUMN version TEXT;
