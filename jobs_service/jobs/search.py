"""The text search: which words a query has, and the index of words that maintenance fills in the background.

A block is a row of `search_blocks`: the words of about 64 jobs with consecutive ids. A query reads the blocks that have
all of its words, and then the jobs in them. The rows decide what matches, so an outdated block only costs time. Jobs
that are not in blocks yet are read as they are.

What is written meanwhile cannot slip through. `search_progress` moves to a time that lies two minutes back, and only
when all transactions have ended that ran when that time was chosen. A job that is written later with an older id is
noted in `search_changes` by a trigger, like every job whose text changes and every job that is deleted.
"""

from collections.abc import Sequence

from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.jobs.lifecycle import FENCE

#: The maximum number of characters and of words of a query.
MAX_CHARACTERS, MAX_WORDS = 200, 10

#: Jobs in a block, and the bytes of their texts after which the next block begins.
BLOCK_JOBS, BLOCK_BYTES = 64, 65_536
#: A job with a longer text makes a block without words: PostgreSQL limits how many a `tsvector` can have.
MAX_TEXT_BYTES = 262_144
#: Words are cut to this length in blocks, and so are the words of a query when blocks are chosen.
WORD_CHARACTERS = 100

#: Jobs that one statement adds to blocks; changes that one statement handles, and jobs that it reads for each of them.
JOBS_AT_ONCE, CHANGES_AT_ONCE, RANGE_JOBS = 1_024, 100, 2_000

#: Jobs younger than this are not in blocks. More than the minute after which a written job counts as late.
SETTLE_SECONDS = 120


def words_of(database: Database, query: str) -> list[str]:
    """Return the words of a query as the index spells them. Raises `InvalidRequest` if it has none, or too many."""
    (text,) = database.row("SELECT search_text(%s::text)", (query,)) or ("",)
    words = list(dict.fromkeys(text.split()))
    if not words:
        raise InvalidRequest("expected at least one letter or digit", pointer="q")
    if len(words) > MAX_WORDS:
        raise InvalidRequest(f"expected at most {MAX_WORDS} words", pointer="q")
    return words


def tsquery(words: Sequence[str]) -> str:
    """Return the query for blocks in which each of these words, which are only letters and digits, begins a word."""
    return " & ".join(f"'{word[:WORD_CHARACTERS]}':*" for word in words)


# Whether a job has, for each of `words`, a word that begins with it. They are compared as they are: no pattern. Most
# jobs lack a word altogether, which is told without dividing their texts into words.
MATCHES = """CASE
  WHEN EXISTS (
    SELECT FROM (SELECT lower(payload::text || ' ' || COALESCE(error, '')) AS text OFFSET 0) AS job,
                unnest(%(words)s::text[]) AS word
    WHERE strpos(job.text, word) = 0
  ) THEN FALSE
  ELSE NOT EXISTS (
    SELECT FROM (SELECT search_text(payload, error) AS text OFFSET 0) AS job, unnest(%(words)s::text[]) AS word
    WHERE strpos(job.text, ' ' || word) = 0
  )
END"""

# The next jobs that may match: those that no block has yet, then those in the ranges of ids that are `marked`. A range
# that is `below` those which are read now is left to the next statement, and so are the jobs in it.
SCANNED = """
progress AS MATERIALIZED (SELECT indexed_until FROM search_progress),
tail AS MATERIALIZED (
  -- Each range has one bound: between two PostgreSQL may expect few rows, and read and sort them all.
  SELECT id FROM (SELECT id FROM jobs WHERE id < %(before)s ORDER BY id DESC LIMIT %(chunk)s) AS newest
  WHERE id >= %(floor)s AND id > (SELECT indexed_until FROM progress)
),
-- A frequent word is in the next blocks: its many other blocks need not be sorted.
walked AS MATERIALIZED (
  SELECT last_id, first_id FROM (
    SELECT * FROM search_blocks WHERE last_id <= COALESCE(
      (SELECT last_id FROM search_blocks WHERE last_id >= %(before)s ORDER BY last_id LIMIT 1),
      'ffffffff-ffff-ffff-ffff-ffffffffffff'
    )
    ORDER BY last_id DESC LIMIT %(walked_blocks)s
  ) AS following
  WHERE (words @@ %(tsquery)s::tsquery OR words IS NULL) AND first_id < %(before)s AND last_id >= %(floor)s
    AND last_id <= (SELECT indexed_until FROM progress)
  ORDER BY last_id DESC LIMIT %(blocks)s + 1
),
indexed AS MATERIALIZED (
  (SELECT last_id, first_id FROM walked WHERE (SELECT count(*) FROM walked) > %(blocks)s)
  UNION ALL
  (SELECT last_id, first_id FROM search_blocks
   WHERE (SELECT count(*) FROM walked) <= %(blocks)s
     AND words @@ %(tsquery)s::tsquery AND first_id < %(before)s AND last_id >= %(floor)s
     AND last_id <= (SELECT indexed_until FROM progress)
   ORDER BY last_id DESC NULLS LAST LIMIT %(blocks)s + 1)
  UNION ALL
  (SELECT last_id, first_id FROM search_blocks
   WHERE (SELECT count(*) FROM walked) <= %(blocks)s
     AND words IS NULL AND first_id < %(before)s AND last_id >= %(floor)s
     AND last_id <= (SELECT indexed_until FROM progress)
   ORDER BY last_id DESC LIMIT %(blocks)s + 1)
  UNION ALL
  (SELECT job_id, job_id FROM search_changes
   WHERE job_id < %(before)s AND job_id >= %(floor)s AND job_id <= (SELECT indexed_until FROM progress)
   ORDER BY job_id DESC LIMIT %(blocks)s + 1)
),
marked AS MATERIALIZED (SELECT * FROM indexed ORDER BY last_id DESC LIMIT %(blocks)s + 1),
below AS MATERIALIZED (SELECT last_id FROM marked ORDER BY last_id DESC OFFSET %(blocks)s LIMIT 1),
scanned AS MATERIALIZED (
  SELECT id FROM (
    SELECT id FROM tail
    UNION
    SELECT found.id
    FROM (SELECT * FROM marked WHERE (SELECT count(*) FROM tail) < %(chunk)s ORDER BY last_id DESC LIMIT %(blocks)s)
      AS ranges
    CROSS JOIN LATERAL (
      SELECT id FROM jobs
      WHERE id BETWEEN ranges.first_id AND ranges.last_id AND id < %(before)s AND id >= %(floor)s
        AND id <= (SELECT indexed_until FROM progress)
        AND id > COALESCE((SELECT last_id FROM below), '00000000-0000-0000-0000-000000000000')
      ORDER BY id DESC LIMIT %(chunk)s
    ) AS found
  ) AS candidates
  ORDER BY id DESC LIMIT %(chunk)s
)"""

#: Where the next statement goes on: before this id, or with it. Both NULL: nothing is left.
GOES_ON_BEFORE = "(SELECT id FROM scanned WHERE (SELECT count(*) FROM scanned) = %(chunk)s ORDER BY id LIMIT 1)"
GOES_ON_WITH = "(SELECT last_id FROM below)"

# Blocks of the jobs `found`: as many as have room, in the order of their ids. No block has jobs of two parts.
_BLOCKS = f"""
SELECT (array_agg(id ORDER BY id DESC))[1], (array_agg(id ORDER BY id))[1],
  CASE WHEN NOT bool_or(is_long) THEN array_to_tsvector(COALESCE((
    SELECT array_agg(DISTINCT left(word, {WORD_CHARACTERS}))
    FROM unnest(string_to_array(btrim(string_agg(text, '') FILTER (WHERE NOT is_long)), ' ')) AS word
  ), '{{}}')) END
FROM (
  SELECT id, text, octet_length(text) > {MAX_TEXT_BYTES} AS is_long,
         part, sum(octet_length(text)) OVER (PARTITION BY part ORDER BY id) / {BLOCK_BYTES} AS by_bytes,
         (row_number() OVER (PARTITION BY part ORDER BY id) - 1) / {BLOCK_JOBS} AS by_jobs
  FROM found
) AS sized
GROUP BY part, by_bytes, by_jobs"""

# The xid is that of a transaction that has not begun yet: all that may write now have a lower one. One that is higher
# than any here is of another server, whose backup was restored on this one.
_CHOOSE = f"""
UPDATE search_progress
SET next_until = rpad(lpad(to_hex(
      (extract(epoch FROM clock_timestamp() - %(settle)s * interval '1 second') * 1000)::bigint
    ), 12, '0'), 32, '0')::uuid,
    next_xid = pg_snapshot_xmax(pg_current_snapshot())
WHERE (next_until IS NULL OR next_xid > pg_snapshot_xmax(pg_current_snapshot())) AND {FENCE}"""

# What is left of an index that was being cleared is removed before the new blocks are written.
_ADD = f"""
WITH place AS MATERIALIZED (
  SELECT indexed_until, next_until FROM search_progress
  WHERE next_until IS NOT NULL AND next_xid <= pg_snapshot_xmin(pg_current_snapshot()) AND {FENCE}
), found AS MATERIALIZED (
  SELECT jobs.id, search_text(payload, error) AS text, 1 AS part
  FROM place CROSS JOIN LATERAL (
    -- Between two bounds PostgreSQL may expect few rows, and read and sort them all.
    SELECT id, payload, error FROM jobs WHERE id > place.indexed_until ORDER BY id LIMIT %(limit)s
  ) AS jobs
  WHERE id <= next_until
), removed AS (
  DELETE FROM search_blocks WHERE last_id = ANY(ARRAY(
    SELECT last_id FROM search_blocks WHERE last_id > (SELECT indexed_until FROM place) ORDER BY last_id LIMIT %(limit)s
  )) RETURNING last_id
), added AS (
  INSERT INTO search_blocks (last_id, first_id, words)
  SELECT * FROM ({_BLOCKS}) AS blocks WHERE (SELECT count(*) FROM removed) >= 0
)
UPDATE search_progress
SET indexed_until = CASE WHEN (SELECT count(*) FROM found) < %(limit)s
      THEN GREATEST(search_progress.indexed_until, search_progress.next_until)
      ELSE (SELECT id FROM found ORDER BY id DESC LIMIT 1) END,
    next_until = CASE WHEN (SELECT count(*) FROM found) < %(limit)s THEN NULL ELSE search_progress.next_until END
FROM place
WHERE search_progress.indexed_until = place.indexed_until
RETURNING (SELECT count(*) FROM found)"""

# Only notes that this statement sees are taken, and it sees the rows that they are about. A range with more jobs than
# are read at once is noted again, from the last one read.
_RENEW = f"""
WITH taken AS (
  DELETE FROM search_changes
  WHERE number IN (SELECT number FROM search_changes ORDER BY number LIMIT %(limit)s) AND {FENCE}
  RETURNING job_id
), changed AS MATERIALIZED (
  SELECT DISTINCT job_id FROM taken WHERE job_id <= (SELECT indexed_until FROM search_progress)
), ranges AS MATERIALIZED (
  SELECT DISTINCT COALESCE(block.first_id, job_id) AS first_id, COALESCE(block.last_id, job_id) AS last_id
  FROM changed LEFT JOIN LATERAL (
    SELECT first_id, last_id
    FROM (SELECT * FROM search_blocks WHERE last_id >= job_id ORDER BY last_id LIMIT 1) AS following
    WHERE first_id <= job_id
  ) AS block ON TRUE
), read AS MATERIALIZED (
  SELECT jobs.id, ranges.last_id, search_text(payload, error) AS text, place
  FROM ranges CROSS JOIN LATERAL (
    SELECT id, payload, error, row_number() OVER () AS place
    FROM (
      SELECT id, payload, error FROM jobs WHERE id BETWEEN ranges.first_id AND ranges.last_id
      ORDER BY id LIMIT %(range_jobs)s
    ) AS first_jobs
  ) AS jobs
), found AS MATERIALIZED (SELECT DISTINCT ON (id) id, text, last_id AS part FROM read ORDER BY id, last_id
), removed AS (
  DELETE FROM search_blocks WHERE last_id = ANY(ARRAY(SELECT last_id FROM ranges)) RETURNING last_id
), added AS (
  INSERT INTO search_blocks (last_id, first_id, words)
  SELECT * FROM ({_BLOCKS}) AS blocks WHERE (SELECT count(*) FROM removed) >= 0
), again AS (
  INSERT INTO search_blocks (last_id, first_id)
  SELECT last_id, id FROM read WHERE place = %(range_jobs)s AND id < last_id AND (SELECT count(*) FROM removed) >= 0
  RETURNING last_id
), noted AS (
  INSERT INTO search_changes (job_id) SELECT last_id FROM again
)
SELECT count(*) FROM taken"""

_CLEAR = f"""
WITH taken AS (
  DELETE FROM search_blocks
  WHERE last_id IN (SELECT last_id FROM search_blocks ORDER BY last_id LIMIT %(limit)s) AND {FENCE}
  RETURNING 1
), forgotten AS (
  DELETE FROM search_changes
  WHERE number IN (SELECT number FROM search_changes ORDER BY number LIMIT %(limit)s) AND {FENCE}
  RETURNING 1
), restarted AS (
  UPDATE search_progress SET indexed_until = %(zero)s, next_until = NULL, next_xid = NULL
  WHERE (indexed_until <> %(zero)s OR next_until IS NOT NULL) AND {FENCE}
)
SELECT (SELECT count(*) FROM taken) + (SELECT count(*) FROM forgotten)"""

_FIRST = "00000000-0000-0000-0000-000000000000"


def add_blocks(database: Database, *, fence: int | None = None, settle_seconds: float = SETTLE_SECONDS) -> int:
    """Add up to `JOBS_AT_ONCE` jobs to blocks, the oldest first, and return how many.

    0: there are none at this moment, or a transaction still runs that may write some of them.
    """
    database.rows(_CHOOSE, {"settle": settle_seconds, "fence": fence})
    (count,) = database.row(_ADD, {"limit": JOBS_AT_ONCE, "fence": fence}) or (0,)
    return int(count)


def renew_blocks(database: Database, *, fence: int | None = None) -> int:
    """Read the blocks of up to `CHANGES_AT_ONCE` changed or deleted jobs anew. Return how many changes there were."""
    names = {"limit": CHANGES_AT_ONCE, "range_jobs": RANGE_JOBS, "fence": fence}
    (count,) = database.row(_RENEW, names) or (0,)
    return int(count)


def clear(database: Database, *, fence: int | None = None) -> int:
    """Delete a part of the index. Return how many rows. A search would then read every job."""
    (count,) = database.row(_CLEAR, {"limit": JOBS_AT_ONCE, "zero": _FIRST, "fence": fence}) or (0,)
    return int(count)
