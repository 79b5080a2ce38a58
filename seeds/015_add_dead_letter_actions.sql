-- What a person does about jobs that failed or were cancelled: groups of equal errors and what was decided about them,
-- redrives of many jobs, discards. And who cancelled a job.

-- step: adding a column to jobs
ALTER TABLE jobs
  -- The name of the API key, or what an anonymous caller said.
  ADD COLUMN cancelled_by TEXT;

-- step: creating the functions that group errors
-- An error's message without what differs from job to job: quoted texts, URLs, addresses, ids, numbers. Only built-in
-- functions, and each found when this file is applied: a restored dump builds the index below under any search_path.
CREATE FUNCTION job_error_pattern(error text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(btrim(
  regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    regexp_replace(left(COALESCE(error, ''), 1000),
      '"[^"]*"|\x60[^\x60]*\x60|“[^”]*”|(?<![[:alnum:]])''[^'']*''(?![[:alnum:]])', '"…"', 'g'),
    '\m[A-Za-z][A-Za-z0-9+.-]*://[^\s"<>]+', '<url>', 'g'),
    '[^\s<>"(),;:]+@[^\s<>"(),;:]+', '<address>', 'g'),
    '\m[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\M', '<id>', 'g'),
    '\m[0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{0,4}){3,7}\M', '<address>', 'g'),
    '\m(?=[A-Za-z_]*[0-9])([0-9A-Fa-f]{8,}|[0-9A-Za-z_]{16,})\M', '<id>', 'g'),
    '[0-9]+([.,:][0-9]+)*', 'N', 'g'),
    '\s+', ' ', 'g')
), 200);

-- The class of the last attempt's exception, or what ended the job without one.
CREATE FUNCTION job_error_class(end_reason text, history jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE end_reason
  WHEN 'expired' THEN 'Expired'
  WHEN 'unknown_type' THEN 'UnknownType'
  ELSE COALESCE(history->-1->>'error', 'Unknown')
END;

-- Jobs whose errors are equal but for such differences have the same group.
CREATE FUNCTION job_error_group(type text, end_reason text, error text, history jsonb) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(encode(sha256(convert_to(
  type || E'\n' || job_error_class(end_reason, history) || E'\n' || job_error_pattern(error), 'UTF8'
)), 'hex'), 32)::uuid;

-- step: creating error_groups, redrives and discards
-- What a person decided about a group. A group without a row is open.
CREATE TABLE error_groups (
  id UUID PRIMARY KEY,
  state VARCHAR(10) NOT NULL CHECK (state IN ('resolved', 'ignored')),
  reason TEXT NOT NULL,
  decided_by TEXT NOT NULL,
  decided_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Operations that run many dead letters again.
CREATE TABLE redrives (
  id UUID PRIMARY KEY,
  state VARCHAR(10) NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'completed', 'cancelled')),
  -- As it was sent; {} for all.
  filter JSONB NOT NULL,
  rate_per_second DOUBLE PRECISION NOT NULL,
  requested_by TEXT NOT NULL,
  matched INTEGER NOT NULL,
  moved INTEGER NOT NULL DEFAULT 0,
  -- Of the matched jobs, those that were not dead letters any more, or had failed again since.
  skipped INTEGER NOT NULL DEFAULT 0,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  finished_at TIMESTAMPTZ,
  cancelled_by TEXT
);

-- The jobs that are yet to be redriven, as they were when the operation began: with the end that each of them had.
CREATE TABLE redrive_jobs (
  redrive_id UUID NOT NULL,
  -- In the order in which they failed.
  place BIGINT NOT NULL,
  job_id UUID NOT NULL,
  seen UUID,
  finished_at TIMESTAMPTZ NOT NULL,
  PRIMARY KEY (redrive_id, place)
);

-- Dead letters that were deleted by a person, until the pruner has deleted their files.
CREATE TABLE discards (
  job_id UUID PRIMARY KEY,
  transition_token UUID NOT NULL,
  type VARCHAR(50) NOT NULL,
  queue VARCHAR(50) NOT NULL,
  attempts INTEGER NOT NULL,
  request_id VARCHAR(128),
  traceparent VARCHAR(55),
  discarded_by TEXT NOT NULL,
  discarded_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- step without transaction: building jobs_dead_letters
-- The list of dead letters, the last one to fail first. Only failed jobs cost anything here and below.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_dead_letters ON jobs (finished_at, id) WHERE status = 'failed';

-- step without transaction: building jobs_error_groups
-- PostgreSQL computes a job's group when the job fails.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_error_groups
  ON jobs (job_error_group(type, end_reason, error, history), finished_at, id) WHERE status = 'failed';
