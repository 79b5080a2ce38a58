"""docs/invariants.md and docs/reliability.md, the code and the tests say the same."""

import re
from pathlib import Path

from invariants import SQL
from test_lifecycle_machine import INVARIANTS

from jobs_service.config import TIMEOUT_ORDER, variables_of
from jobs_service.jobs.lifecycle import TRANSITIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "invariants.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()


def test_every_statement_is_in_the_page_and_no_other():
    written = {_plain(sql) for sql in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)}

    assert {_plain(sql) for sql in (*SQL.values(), *INVARIANTS.values())} == written


def test_every_sentence_of_a_statement_is_in_the_page():
    sentences = set(re.findall(r"^\*\*(.+)\*\*$", PAGE, re.MULTILINE))

    assert set(INVARIANTS) <= sentences
    assert sentences <= {*INVARIANTS, *SQL}


def test_every_verb_is_an_action():
    actions = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))

    assert set(TRANSITIONS) <= actions


def test_the_ladder_of_timeouts_is_in_the_page():
    written = re.findall(r"^\| `([A-Z_ +]+)` \| `([A-Z_ +]+)` \| (.+) \|$", RELIABILITY, re.MULTILINE)

    assert [(variables_of(lower), variables_of(upper), reason) for lower, upper, reason in TIMEOUT_ORDER] == written


def _plain(sql):
    return " ".join(sql.split())
