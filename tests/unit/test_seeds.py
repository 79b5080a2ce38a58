"""No file of seeds/ holds up who works with jobs meanwhile, as far as can be told by reading."""

import re

import pytest

from jobs_service.database.migrations import SEEDS, read

STEPS = [
    pytest.param(step, id=f"{migration.name}: {step.doing}")
    for migration in read(SEEDS)[1:]
    for step in migration.steps
]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_never_reads_or_writes_all_of_jobs_under_a_lock(step):
    statements = [*_statements(step.sql)]
    assert statements
    for statement in statements:
        assert not re.match(r"(CREATE (UNIQUE )?|DROP )INDEX (?!CONCURRENTLY IF)", statement), statement
        if statement.startswith("ALTER TABLE jobs"):
            for action in re.split(r",\s*(?=ADD|DROP|ALTER|VALIDATE)", statement):
                _assert_short(action)
        if re.match("UPDATE|DELETE", statement):
            assert not step.in_transaction, statement


@pytest.mark.parametrize("step", [step for step in STEPS if not step.values[0].in_transaction])
def test_a_step_without_transaction_is_one_statement_that_may_be_done_again(step):
    [statement] = _statements(step.sql)

    assert re.match(r"(CREATE|DROP) (UNIQUE )?INDEX CONCURRENTLY IF (NOT )?EXISTS|DO \$\$", statement)


def _assert_short(action):
    if "ADD COLUMN" in action:
        # A rule about a new column reads the table, and so does a default that differs from row to row.
        assert not re.search(
            r"CHECK|UNIQUE|REFERENCES|random|uuid|clock_timestamp|GENERATED", action.replace(" UUID", "")
        )
    elif "ADD CONSTRAINT" in action:
        assert action.rstrip().endswith("NOT VALID"), action
    else:
        assert not re.search(r" TYPE |UNLOGGED|TABLESPACE", action), action


def _statements(sql):
    """Yield the statements, without comments. A block in dollars is one, and the statements in it follow."""
    text = re.sub(r"--[^\n]*", "", sql)
    for block, plain in re.findall(r"(DO \$\$.*?\$\$);|((?:(?!DO \$\$)[^;])+);", text, re.DOTALL):
        yield " ".join((block or plain).split())
