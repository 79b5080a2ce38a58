-- How a transition, a worker and the leader are recognised again: by tokens and counters, never by a wall clock.

-- step: adding columns to jobs
ALTER TABLE jobs
  -- The transition that last changed the row, other than a claim. A statement whose answer was lost finds itself by it.
  ADD COLUMN transition_token UUID,
  -- Since when a job waits that was given back, or taken back from a lost worker, and kept its run_at, its place in line.
  ADD COLUMN returned_at TIMESTAMPTZ;

-- step: adding columns to workers
ALTER TABLE workers
  -- Counts up with each heartbeat. That it stands still is what tells of a lost worker, whatever the clocks do.
  ADD COLUMN beats BIGINT NOT NULL DEFAULT 0;

-- step: counting the heartbeats of the version before
-- Its workers write heartbeat_at alone. Beside a leader of this version they would be taken for lost, with all their jobs.
CREATE FUNCTION count_beat() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.beats := OLD.beats + 1;
  RETURN NEW;
END $$;
CREATE TRIGGER workers_count_beat BEFORE UPDATE OF heartbeat_at ON workers
  FOR EACH ROW WHEN (NEW.beats = OLD.beats) EXECUTE FUNCTION count_beat();

-- step: creating leases and canaries
-- Who may do a chore of which there is to be one at a time. The token counts up with each holder and fences its writes.
CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  holder UUID NOT NULL,
  token BIGINT NOT NULL,
  expires_at TIMESTAMPTZ NOT NULL
);

-- The last canary of each queue that was completed. Its row in jobs is gone.
CREATE TABLE canaries (
  queue VARCHAR(50) PRIMARY KEY,
  job_id UUID NOT NULL,
  -- The attempt that completed it. One whose answer was lost finds itself by it.
  lease_token UUID NOT NULL,
  finished_at TIMESTAMPTZ NOT NULL,
  seconds DOUBLE PRECISION NOT NULL
);
