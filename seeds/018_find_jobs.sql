-- What GET /jobs needs for its further filters (docs/decisions/0033). A job that is on the default queue, has no tags and
-- completes with its first attempt pays for the index of finished jobs alone, once, when it ends.

-- step without transaction: building jobs_by_queue
-- The default queue is left out: its jobs are dense among all jobs, or nearly all of them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_queue ON jobs (queue, id NULLS FIRST) WHERE queue <> 'default';

-- step without transaction: building jobs_tried_again
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_tried_again ON jobs (id NULLS FIRST) WHERE attempts > 1;

-- step without transaction: building jobs_by_finish
-- Throughput, latencies and estimates: what ended in the last minutes.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_finish ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- step: creating job_tags
-- A row for each tag of a job, kept by triggers. An index of jobs.tags could not list a frequent tag's newest jobs. The
-- triggers' functions run as their owner: who may write jobs need not be granted these tables.
CREATE TABLE job_tags (
  tag TEXT NOT NULL,
  job_id UUID NOT NULL,
  PRIMARY KEY (tag, job_id)
);

CREATE FUNCTION keep_job_tags() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN DELETE FROM job_tags WHERE tag = ANY(OLD.tags) AND job_id = OLD.id; END IF;
  INSERT INTO job_tags (tag, job_id)
  SELECT DISTINCT tag, NEW.id FROM unnest(NEW.tags) AS tag WHERE tag IS NOT NULL
  ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;

CREATE TRIGGER jobs_add_tags AFTER INSERT ON jobs
  FOR EACH ROW WHEN (NEW.tags IS NOT NULL) EXECUTE FUNCTION keep_job_tags();
CREATE TRIGGER jobs_change_tags AFTER UPDATE OF tags ON jobs
  FOR EACH ROW WHEN (NEW.tags IS DISTINCT FROM OLD.tags) EXECUTE FUNCTION keep_job_tags();

-- step: creating the text search
-- The words of payloads and errors, for blocks of jobs with consecutive ids. Maintenance fills it in the background. It
-- only says which blocks to read: whether a job matches is decided by its row.
CREATE TABLE search_blocks (
  last_id UUID PRIMARY KEY,
  first_id UUID NOT NULL,
  -- NULL: too many words, so the block is always read.
  words TSVECTOR
);

-- Jobs whose texts changed, or that were written or deleted, behind the place up to which jobs are indexed.
CREATE TABLE search_changes (
  number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id UUID NOT NULL
);

-- One row: all jobs up to `indexed_until` are in blocks or in search_changes. Those up to `next_until` are next, once no
-- transaction is left that may still write one of them: when all before `next_xid` have ended.
CREATE TABLE search_progress (
  is_only BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (is_only),
  indexed_until UUID NOT NULL,
  next_until UUID,
  next_xid XID8
);
INSERT INTO search_progress (indexed_until) VALUES ('00000000-0000-0000-0000-000000000000');

-- A text in small letters, every word with one space before it. The letters are named here and not left to the
-- database's locale: C has none beyond ASCII.
CREATE FUNCTION search_text(text TEXT) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT ' ' || btrim(regexp_replace(
    lower(text), '[^0-9a-z\u00c0-\u1fff\u2070-\u2fff\u3040-\uffef\U00010000-\U0010fffd]+', ' ', 'g'
  ))
$$;

-- The text of a job: without the escapes of JSON, whose letters would become part of the words.
CREATE FUNCTION search_text(payload JSONB, error TEXT) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT search_text(
    regexp_replace(payload::text, '\\(["\\/bfnrt]|u[0-9a-f]{4})', ' ', 'g') || ' ' || COALESCE(error, '')
  )
$$;

CREATE FUNCTION note_search_change() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO search_changes (job_id) VALUES (NEW.id);
  RETURN NULL;
END $$;

-- An error is written by a failed attempt, never by one that completes.
CREATE TRIGGER jobs_change_error AFTER UPDATE OF error ON jobs
  FOR EACH ROW WHEN (NEW.error IS NOT NULL AND NEW.error IS DISTINCT FROM OLD.error)
  EXECUTE FUNCTION note_search_change();
CREATE TRIGGER jobs_change_payload AFTER UPDATE OF payload ON jobs
  FOR EACH ROW WHEN (NEW.payload IS DISTINCT FROM OLD.payload) EXECUTE FUNCTION note_search_change();
-- A job with an older id than those that are written now: it may lie behind the place up to which jobs are indexed.
CREATE TRIGGER jobs_add_late AFTER INSERT ON jobs
  FOR EACH ROW WHEN (NEW.id < rpad(lpad(to_hex(
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 60000), 12, '0'), 32, '0')::uuid)
  EXECUTE FUNCTION note_search_change();

-- step: forgetting deleted jobs
CREATE FUNCTION forget_deleted_jobs() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  WITH tags AS (
    DELETE FROM job_tags USING (SELECT id, unnest(tags) AS tag FROM gone WHERE tags IS NOT NULL) AS tagged
    WHERE job_tags.tag = tagged.tag AND job_tags.job_id = tagged.id
  )
  INSERT INTO search_changes (job_id) SELECT id FROM gone;
  RETURN NULL;
END $$;

CREATE TRIGGER jobs_forget AFTER DELETE ON jobs
  REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION forget_deleted_jobs();

-- step without transaction: building search_blocks_by_words
CREATE INDEX CONCURRENTLY IF NOT EXISTS search_blocks_by_words ON search_blocks USING gin (words);

-- step without transaction: building search_blocks_without_words
CREATE INDEX CONCURRENTLY IF NOT EXISTS search_blocks_without_words ON search_blocks (last_id) WHERE words IS NULL;

-- step without transaction: building search_changes_by_job
CREATE INDEX CONCURRENTLY IF NOT EXISTS search_changes_by_job ON search_changes (job_id);
