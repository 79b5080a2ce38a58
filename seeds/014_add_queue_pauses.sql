-- Queues that an operator has paused: their jobs wait. A queue without a row here runs.

CREATE TABLE queue_pauses (
  queue VARCHAR(50) PRIMARY KEY,
  reason TEXT NOT NULL,
  -- The name of the API key, or what an anonymous caller said.
  paused_by TEXT NOT NULL,
  paused_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
