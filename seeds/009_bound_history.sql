-- A job that is run again and again keeps its first and its last failed attempts.

-- step: adding a column to jobs
ALTER TABLE jobs
  -- How many entries of `history` were left out between the first and the last.
  ADD COLUMN history_omitted INTEGER NOT NULL DEFAULT 0;
