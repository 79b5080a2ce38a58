-- What the life of a job needs beyond the brief's table. A row inserted by hand with only
-- (id, type, status 'pending', payload) is a complete job: the relay publishes it.

-- step: adding columns to jobs
ALTER TABLE jobs
  -- The brief's two columns have no time zone: they hold UTC, whatever the session's zone is.
  ALTER COLUMN created_at SET DEFAULT timezone('utc', now()),
  ALTER COLUMN updated_at SET DEFAULT timezone('utc', now()),
  ALTER COLUMN status SET DEFAULT 'pending',
  ADD COLUMN queue VARCHAR(50) NOT NULL DEFAULT 'default',
  ADD COLUMN priority SMALLINT NOT NULL DEFAULT 5,
  ADD COLUMN max_attempts INTEGER NOT NULL DEFAULT 3,
  -- Not before this: the client's wish, or the end of a retry's backoff.
  ADD COLUMN run_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  -- When the relay is to publish the message (again). Every pending row has one, so none can be forgotten.
  ADD COLUMN publish_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  ADD COLUMN started_at TIMESTAMPTZ,
  ADD COLUMN finished_at TIMESTAMPTZ,
  -- Fresh at each claim; every later write of that attempt must name it.
  ADD COLUMN lease_token UUID,
  ADD COLUMN worker_id UUID,
  -- How many workers were lost while they ran this job. Three make it poison.
  ADD COLUMN crashes SMALLINT NOT NULL DEFAULT 0,
  ADD COLUMN dead_reason VARCHAR(40),
  -- One object for each failed attempt, oldest first.
  ADD COLUMN history JSONB NOT NULL DEFAULT '[]',
  -- From here on every row that is written keeps to these. The rows there are get the time they need, below.
  ADD CONSTRAINT jobs_priority_check CHECK (priority BETWEEN 0 AND 9) NOT VALID,
  ADD CONSTRAINT jobs_max_attempts_check CHECK (max_attempts BETWEEN 1 AND 100) NOT VALID,
  ADD CONSTRAINT jobs_status_known
    CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')) NOT VALID,
  ADD CONSTRAINT jobs_lease_while_processing
    CHECK ((status = 'processing') = (lease_token IS NOT NULL)) NOT VALID,
  ADD CONSTRAINT jobs_reason_when_failed
    CHECK ((status = 'failed') = (dead_reason IS NOT NULL)) NOT VALID,
  ADD CONSTRAINT jobs_finished_when_terminal
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)) NOT VALID,
  -- For the step that makes the columns NOT NULL, which would otherwise read the table while nobody may write.
  ADD CONSTRAINT jobs_without_null
    CHECK (attempts IS NOT NULL AND created_at IS NOT NULL AND updated_at IS NOT NULL) NOT VALID;

-- step without transaction: completing the rows there are
-- Rows of a program that knew the brief's table alone. What it had begun nobody does any more, so it waits again.
DO $$
DECLARE
  first UUID := '00000000-0000-0000-0000-000000000000';
  last UUID;
BEGIN
  LOOP
    SELECT id INTO last FROM jobs WHERE id >= first ORDER BY id OFFSET 4999 LIMIT 1;
    UPDATE jobs SET
      status = CASE status WHEN 'processing' THEN 'pending' ELSE status END,
      dead_reason = COALESCE(dead_reason, CASE status WHEN 'failed' THEN 'attempts_exhausted' END),
      finished_at = COALESCE(finished_at, CASE WHEN status IN ('completed', 'failed', 'cancelled')
        THEN COALESCE(timezone('utc', updated_at), now()) END),
      attempts = COALESCE(attempts, 0),
      created_at = COALESCE(created_at, updated_at, timezone('utc', now())),
      updated_at = COALESCE(updated_at, created_at, timezone('utc', now()))
    WHERE id BETWEEN first AND COALESCE(last, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
      AND (status = 'processing' AND lease_token IS NULL
        OR status IN ('completed', 'failed', 'cancelled') AND finished_at IS NULL
        OR attempts IS NULL OR created_at IS NULL OR updated_at IS NULL);
    COMMIT;
    EXIT WHEN last IS NULL;
    first := last;
  END LOOP;
END $$;

-- step: validating the rules for the rows there are
ALTER TABLE jobs
  VALIDATE CONSTRAINT jobs_priority_check,
  VALIDATE CONSTRAINT jobs_max_attempts_check,
  VALIDATE CONSTRAINT jobs_status_known,
  VALIDATE CONSTRAINT jobs_lease_while_processing,
  VALIDATE CONSTRAINT jobs_reason_when_failed,
  VALIDATE CONSTRAINT jobs_finished_when_terminal,
  VALIDATE CONSTRAINT jobs_without_null;

-- step: forbidding NULL in three columns
ALTER TABLE jobs
  ALTER COLUMN attempts SET NOT NULL,
  ALTER COLUMN created_at SET NOT NULL,
  ALTER COLUMN updated_at SET NOT NULL;
ALTER TABLE jobs DROP CONSTRAINT jobs_without_null;

-- step without transaction: building jobs_waiting
-- The relay's order. publish_at is deliberately not in it: marking a row as published stays a HOT update.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_waiting
  ON jobs (queue, priority DESC, run_at, id) WHERE status = 'pending';

-- step without transaction: building jobs_not_completed
-- Lists by status, the sweeps over processing rows and the dead letters. Completed rows, nearly all of a
-- grown table, are left out: newest-first over the primary key finds them at once.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_not_completed ON jobs (status, id) WHERE status <> 'completed';

-- step: creating workers
-- Liveness: one row a worker process, kept fresh by one statement for all the jobs it runs.
CREATE TABLE workers (
  id UUID PRIMARY KEY,
  hostname TEXT NOT NULL,
  pid INTEGER NOT NULL,
  queues TEXT[] NOT NULL,
  threads INTEGER NOT NULL,
  started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  heartbeat_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
