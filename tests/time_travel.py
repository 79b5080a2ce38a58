"""Set dates in the tables to the past or the future, so that tests need not wait."""

#: In seconds.
MINUTE, HOUR, DAY = 60, 3_600, 86_400


def set_dates(sql, table, ids=None, *, missing_ok=False, **dates):
    """Set each of these columns to this many seconds from now, or to NULL where the value is None.

    `sql` runs a statement and returns its rows: `database.rows`, or the `stack.sql` of a chaos test. Without `ids`,
    every row of the table is changed. Raises `AssertionError` where a row is missing, so that no test continues with
    dates that were not set; with `missing_ok` it does not.
    """
    columns = ", ".join(f"{column} = now() + %s * interval '1 second'" for column in dates)
    statement, values = f"UPDATE {table} SET {columns}", [*dates.values()]
    if ids is not None:
        statement, values = f"{statement} WHERE id = ANY(%s::uuid[])", [*values, [str(row_id) for row_id in ids]]
    changed = len(sql(f"{statement} RETURNING 1", values))
    found_all = changed > 0 if ids is None else changed == len(ids)
    assert found_all or missing_ok, f"{table} has no row to set {', '.join(dates)} of: {ids or 'any'}"


def make_older(sql, job_id, seconds):
    """Set the time at which the job was submitted back by this many seconds."""
    moved = sql(
        "UPDATE jobs SET created_at = created_at - %s * interval '1 second' WHERE id = %s RETURNING 1",
        (seconds, str(job_id)),
    )
    assert moved, f"no job {job_id}"
