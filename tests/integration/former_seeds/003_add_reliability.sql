-- What a job may say about its own limits, and what is known of an attempt that may have had its effect.

ALTER TABLE jobs
  -- No attempt begins after this.
  ADD COLUMN expires_at TIMESTAMPTZ,
  -- When the current attempt confirmed its lease to do what cannot be taken back: send the mail, call the other system.
  ADD COLUMN effect_at TIMESTAMPTZ,
  -- What becomes of the job when nobody knows whether that was done.
  ADD COLUMN on_ambiguous VARCHAR(10) NOT NULL DEFAULT 'resend' CHECK (on_ambiguous IN ('resend', 'hold')),
  DROP CONSTRAINT jobs_reason_when_failed,
  ADD CONSTRAINT jobs_reason_when_dead CHECK ((status IN ('failed', 'cancelled')) = (dead_reason IS NOT NULL));

UPDATE jobs SET dead_reason = 'undecodable' WHERE dead_reason = 'invalid_payload';

-- Only jobs that have an expiry cost anything here.
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE status = 'pending' AND expires_at IS NOT NULL;
