-- Which request a job came from. Nullable and without a default, so the table is not rewritten; nothing searches by them.

ALTER TABLE jobs
  ADD COLUMN request_id VARCHAR(128),
  -- W3C trace context of the submission: every attempt's spans belong to its trace.
  ADD COLUMN traceparent VARCHAR(55);
