-- What happened in each minute of the last day, for GET /stats. The leader of maintenance writes it.

CREATE TABLE job_minutes (
  minute TIMESTAMPTZ NOT NULL,
  -- '' is all queues together.
  queue VARCHAR(50) NOT NULL,
  submitted INTEGER NOT NULL,
  completed INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  cancelled INTEGER NOT NULL,
  -- Seconds from the submission to the end, and of the last attempt, of the completed jobs: NULL if there are none.
  latency_p50 DOUBLE PRECISION,
  latency_p95 DOUBLE PRECISION,
  latency_p99 DOUBLE PRECISION,
  run_p50 DOUBLE PRECISION,
  run_p95 DOUBLE PRECISION,
  run_p99 DOUBLE PRECISION,
  PRIMARY KEY (minute, queue)
);
