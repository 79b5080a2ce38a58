"""csv-generation: what the file says, and that a spreadsheet runs none of it."""

from uuid import UUID

import pytest

from actors.generate_csv import MAX_CELLS, generate_csv, to_csv
from jobs_service.errors import InvalidRequest
from jobs_service.mailer import MemoryMailer
from jobs_service.registry import Attempt, registry
from jobs_service.storage import LocalOutputs

JOB_ID = UUID("01890000-0000-7000-8000-000000000001")


def test_the_file_of_the_brief(tmp_path):
    attempt = Attempt(job_id=JOB_ID, number=1, outputs=LocalOutputs(tmp_path), mailer=MemoryMailer())

    result = generate_csv({"name": "Alice", "score": 95}, attempt)

    assert f"output/{JOB_ID}.csv" == result
    assert b"key,value\nname,Alice\nscore,95\n" == (tmp_path / f"{JOB_ID}.csv").read_bytes()


@pytest.mark.parametrize("name", ["csv-generation", "CSV_GENERATION"])
def test_both_spellings_are_the_type(name):
    assert generate_csv is registry.get(name).function


def test_a_list_becomes_a_table_under_the_union_of_the_keys():
    assert "b,a,c\n1,2,\n,,3\n" == to_csv([{"b": 1, "a": 2}, {"c": 3}])


@pytest.mark.parametrize("nothing", [[], [{}], [{}, {}]])
def test_a_table_without_columns_is_an_empty_file(nothing):
    assert "" == to_csv(nothing)


def test_an_object_without_entries_is_a_header():
    assert "key,value\n" == to_csv({})


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (-5, "-5"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (2**80, "1208925819614629174706176"),
        ([1, "é"], '"[1,""é""]"'),
        ({"a": {"b": None}}, '"{""a"":{""b"":null}}"'),
        ([], "[]"),
        (["\u2028=1", "\x85=1"], r'"[""\u2028=1"",""\u0085=1""]"'),
        ("", ""),
        ("a,b", '"a,b"'),
        ('say "hi"', '"say ""hi"""'),
        ("two\nlines", '"two\nlines"'),
        ("lone\rreturn", '"lone\rreturn"'),
        ("Zoë 😀", "Zoë 😀"),
    ],
)
def test_a_value_becomes_one_cell(value, cell):
    assert f"key,value\nk,{cell}\n" == to_csv({"k": value})


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\ttab", "'\ttab"),
        ("  =1", "'  =1"),
        ("\u00a0=1", "'\u00a0=1"),
        ("\ufeff=1", "'\ufeff=1"),
        ("\u200b\u202e=1", "'\u200b\u202e=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff201", "'\uff201"),
        ("a=1", "a=1"),
        ("a-b@c.d", "a-b@c.d"),
        ("'=1", "'=1"),
        ("'", "'"),
    ],
)
def test_a_string_that_a_spreadsheet_would_run_is_neutralised(text, neutral):
    assert f"key,value\nk,{neutral}\n" == to_csv({"k": text})


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("\rx", "'\rx"),
        ("\n=1", "\n'=1"),
        ("a\n=1", "a\n'=1"),
        ("a\r\n\r\n -1\n+1", "a\r\n\r\n' -1\n'+1"),
        ("a\r@x", "a\r'@x"),
    ],
)
def test_every_line_of_a_string_is_neutralised(text, neutral):
    assert f'key,value\nk,"{neutral}"\n' == to_csv({"k": text})


def test_keys_are_neutralised_too():
    assert "key,value\n'=k,1\n" == to_csv({"=k": 1})
    assert "'=k\n1\n" == to_csv([{"=k": 1}])


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [("text", "/payload"), (5, "/payload"), (None, "/payload"), ([1], "/payload/0"), ([{}, []], "/payload/1")],
)
def test_only_an_object_or_a_list_of_objects_is_taken(payload, pointer):
    with pytest.raises(InvalidRequest) as raised:
        registry.get("csv-generation").parse(payload)

    assert pointer == raised.value.pointer


def test_a_table_that_would_be_mostly_empty_cells_is_refused():
    rows = [{str(number): number} for number in range(int(MAX_CELLS**0.5) + 1)]

    with pytest.raises(InvalidRequest, match="more than 5000000 cells"):
        registry.get("csv-generation").parse(rows)

    assert rows[1:] == registry.get("csv-generation").parse(rows[1:])
