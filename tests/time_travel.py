"""Dates in the tables, moved as no client can move them: a test sets them instead of waiting."""

#: In seconds.
MINUTE, HOUR, DAY = 60, 3_600, 86_400


def set_dates(sql, table, ids=None, *, missing_ok=False, **dates):
    """Set each of these columns to so many seconds from now, or to NULL if it is given as None.

    `sql` runs a statement and returns its rows: `database.rows`, or a chaos test's `stack.sql`. Without `ids` every row
    of the table is changed. Raises `AssertionError` where a row is missing, unless that is expected: a test must not go
    on with dates that were not set.
    """
    columns = ", ".join(f"{column} = now() + %s * interval '1 second'" for column in dates)
    statement, values = f"UPDATE {table} SET {columns}", [*dates.values()]
    if ids is not None:
        statement, values = f"{statement} WHERE id = ANY(%s::uuid[])", [*values, [str(row_id) for row_id in ids]]
    changed = len(sql(f"{statement} RETURNING 1", values))
    found_all = changed > 0 if ids is None else changed == len(ids)
    assert found_all or missing_ok, f"{table} has no row to set {', '.join(dates)} of: {ids or 'any'}"


def make_older(sql, job_id, seconds):
    """Have the job submitted so many seconds earlier."""
    moved = sql(
        "UPDATE jobs SET created_at = created_at - %s * interval '1 second' WHERE id = %s RETURNING 1",
        (seconds, str(job_id)),
    )
    assert moved, f"no job {job_id}"
