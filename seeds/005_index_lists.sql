-- Every filter of GET /jobs reads one range of an index, newest first (docs/decisions/0007).

-- step without transaction: building jobs_by_status
-- Completed rows are in it too: behind a backlog there is no other quick way to them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_status ON jobs (status, id);

-- step without transaction: dropping jobs_not_completed
DROP INDEX CONCURRENTLY IF EXISTS jobs_not_completed;

-- step without transaction: building jobs_by_type
-- Read backwards. NULLS FIRST makes this an order that no other index has; by its statistics PostgreSQL might prefer
-- another one, and walk over a million newer jobs of another kind.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_type ON jobs (type, status, id NULLS FIRST);
