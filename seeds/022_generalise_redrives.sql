-- One engine for actions on many jobs: redrives and discards of dead letters, and cancellations. What was a redrive is
-- one of them. The tables get other names, so that a leader of an earlier version, which would redrive the members of
-- any action, finds none.

-- step: renaming redrives to bulk_actions
ALTER TABLE redrives RENAME TO bulk_actions;
ALTER TABLE redrive_jobs RENAME TO bulk_action_jobs;
ALTER TABLE bulk_action_jobs RENAME COLUMN redrive_id TO action_id;
ALTER TABLE bulk_actions RENAME CONSTRAINT redrives_pkey TO bulk_actions_pkey;
ALTER TABLE bulk_actions RENAME CONSTRAINT redrives_state_check TO bulk_actions_state_check;
ALTER TABLE bulk_action_jobs RENAME CONSTRAINT redrive_jobs_pkey TO bulk_action_jobs_pkey;
ALTER TABLE bulk_actions
  ADD COLUMN kind VARCHAR(20) NOT NULL DEFAULT 'redrive' CHECK (kind IN ('redrive', 'discard', 'cancellation')),
  -- Of a cancellation: each job keeps it.
  ADD COLUMN reason TEXT;
ALTER TABLE bulk_actions ALTER COLUMN kind DROP DEFAULT;
-- An unfinished job has not ended yet.
ALTER TABLE bulk_action_jobs ALTER COLUMN finished_at DROP NOT NULL;

-- step without transaction: building bulk_actions_by_kind
-- The list of each kind, newest first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS bulk_actions_by_kind ON bulk_actions (kind, id);
