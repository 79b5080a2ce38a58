-- What the life of a job needs beyond the brief's table. A row inserted by hand with only
-- (id, type, status 'pending', payload) is a complete job: the relay publishes it.

ALTER TABLE jobs
  -- The brief's two columns have no time zone: they hold UTC, whatever the session's zone is.
  ALTER COLUMN created_at SET DEFAULT timezone('utc', now()),
  ALTER COLUMN updated_at SET DEFAULT timezone('utc', now()),
  ALTER COLUMN attempts SET NOT NULL,
  ALTER COLUMN created_at SET NOT NULL,
  ALTER COLUMN updated_at SET NOT NULL,
  ALTER COLUMN status SET DEFAULT 'pending',
  ADD COLUMN queue VARCHAR(50) NOT NULL DEFAULT 'default',
  ADD COLUMN priority SMALLINT NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
  ADD COLUMN max_attempts INTEGER NOT NULL DEFAULT 3 CHECK (max_attempts BETWEEN 1 AND 100),
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
  ADD CONSTRAINT jobs_status_known
    CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  ADD CONSTRAINT jobs_lease_while_processing
    CHECK ((status = 'processing') = (lease_token IS NOT NULL)),
  ADD CONSTRAINT jobs_reason_when_failed
    CHECK ((status = 'failed') = (dead_reason IS NOT NULL)),
  ADD CONSTRAINT jobs_finished_when_terminal
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL));

-- The relay's order. publish_at is deliberately not in it: marking a row as published stays a HOT update.
CREATE INDEX jobs_waiting ON jobs (queue, priority DESC, run_at, id) WHERE status = 'pending';

-- Lists by status, the sweeps over processing rows and the dead letters. Completed rows, nearly all of a
-- grown table, are left out: newest-first over the primary key finds them at once.
CREATE INDEX jobs_not_completed ON jobs (status, id) WHERE status <> 'completed';

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
