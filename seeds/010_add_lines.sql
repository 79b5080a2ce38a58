-- Each type has a line of its own in a queue: behind a long one, what is due of another is found at once.
-- It takes the place of jobs_waiting, by which the relay of the version before goes on meanwhile.

-- step without transaction: building jobs_lines
-- NULLS FIRST makes the order of a line one that no other index has: none is taken for it by its statistics.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_lines
  ON jobs (queue, type, priority DESC, run_at, id NULLS FIRST) WHERE status = 'pending';
