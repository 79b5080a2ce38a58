-- One name for each thing: cancelled jobs have an end_reason too, and worker_losses counts the workers lost with a job.

-- step: renaming columns of jobs
ALTER TABLE jobs RENAME COLUMN dead_reason TO end_reason;
ALTER TABLE jobs RENAME COLUMN crashes TO worker_losses;
ALTER TABLE jobs RENAME COLUMN effect_at TO effect_started_at;
ALTER TABLE jobs RENAME CONSTRAINT jobs_reason_when_dead TO jobs_reason_when_ended;

-- step without transaction: renaming the end reason undecodable to invalid_payload
DO $$
BEGIN
  LOOP
    UPDATE jobs SET end_reason = 'invalid_payload'
    WHERE id IN (
      SELECT id FROM jobs WHERE status = 'failed' AND end_reason = 'undecodable' ORDER BY id LIMIT 5000
    );
    EXIT WHEN NOT FOUND;
    COMMIT;
  END LOOP;
END $$;
