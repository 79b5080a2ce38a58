-- How a payload and a result were written, where jsonb would give them back otherwise (docs/decisions/0020): with its names
-- in another order, its numbers in another spelling. NULL is the common case, and takes no room. A text counts as long as it
-- says the same as the jsonb beside it: what changes the jsonb alone need not know of the text.

ALTER TABLE jobs
  ADD COLUMN payload_text JSON,
  ADD COLUMN result_text JSON;
