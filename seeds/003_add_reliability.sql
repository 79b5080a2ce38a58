-- What a job may say about its own limits, and what is known of an attempt that may have had its effect.

-- step: adding columns to jobs
ALTER TABLE jobs
  -- No attempt begins after this.
  ADD COLUMN expires_at TIMESTAMPTZ,
  -- When the current attempt confirmed its lease to do what cannot be taken back: send the mail, call the other system.
  ADD COLUMN effect_at TIMESTAMPTZ,
  -- What becomes of the job when nobody knows whether that was done.
  ADD COLUMN on_ambiguous VARCHAR(10) NOT NULL DEFAULT 'resend',
  ADD CONSTRAINT jobs_on_ambiguous_check CHECK (on_ambiguous IN ('resend', 'hold')) NOT VALID,
  DROP CONSTRAINT jobs_reason_when_failed,
  ADD CONSTRAINT jobs_reason_when_dead
    CHECK ((status IN ('failed', 'cancelled')) = (dead_reason IS NOT NULL)) NOT VALID;

-- step without transaction: naming the reasons anew
DO $$
BEGIN
  LOOP
    UPDATE jobs SET dead_reason = CASE status WHEN 'failed' THEN 'undecodable' ELSE 'cancelled_by_operator' END
    WHERE id IN (
      SELECT id FROM jobs
      WHERE status = 'failed' AND dead_reason = 'invalid_payload' OR status = 'cancelled' AND dead_reason IS NULL
      ORDER BY id LIMIT 5000
    );
    EXIT WHEN NOT FOUND;
    COMMIT;
  END LOOP;
END $$;

-- step: validating the rules for the rows there are
ALTER TABLE jobs
  VALIDATE CONSTRAINT jobs_on_ambiguous_check,
  VALIDATE CONSTRAINT jobs_reason_when_dead;

-- step without transaction: building jobs_expiring
-- Only jobs that have an expiry cost anything here.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_expiring
  ON jobs (expires_at) WHERE status = 'pending' AND expires_at IS NOT NULL;
