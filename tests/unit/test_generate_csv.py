"""csv-generation: what the file says, and that a spreadsheet runs none of it."""

import csv
import io
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from actors.generate_csv import MAX_CELLS, generate_csv, to_csv
from jobs_service.errors import InvalidRequest
from jobs_service.jobs.job_types import JobContext, registry
from jobs_service.mail.mailer import MemoryMailer
from jobs_service.outputs.local import LocalOutputs

JOB_ID = UUID("01890000-0000-7000-8000-000000000001")


def test_the_file_of_the_brief(tmp_path):
    attempt = JobContext(job_id=JOB_ID, number=1, outputs=LocalOutputs(tmp_path), mailer=MemoryMailer())

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
        (0.5, "0.5"),
        (95.0, "95.0"),
        (0.00001, "0.00001"),
        (2.5e-6, "0.0000025"),
        (1e-7, "0.0000001"),
        (-1e-64, "-0." + "0" * 63 + "1"),
        (1e20, "100000000000000000000"),
        (1e300, "1" + "0" * 300),
        (2**80, "1208925819614629174706176"),
        (Decimal("0.123456789012345678"), "0.123456789012345678"),
        (Decimal("12345678901234567.89"), "12345678901234567.89"),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-1.5E-9"), "-0.0000000015"),
        ([1e-7, 1e20, Decimal("0.10")], '"[0.0000001,100000000000000000000,0.10]"'),
        ({"a": {"b": [Decimal("1E-7"), True]}}, '"{""a"":{""b"":[0.0000001,true]}}"'),
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
        ("+1+1", "'+1+1"),
        ("-1-1", "'-1-1"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("+49 151 0000000", "'+49 151 0000000"),
        ("-A1", "'-A1"),
        ("-1e", "'-1e"),
        ("-", "'-"),
        ("-1.", "'-1."),
        (" -1", "' -1"),
        ("-1 ", "'-1 "),
        ("--1", "'--1"),
        ("=-1", "'=-1"),
        ("-(1)", "'-(1)"),
        ("-\u0661", "'-\u0661"),
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


@pytest.mark.parametrize("text", ["-75.63", "+5", "-1", "-.5", "-0", "+1e5", "-2.5E-7", "-1.234.567"])
def test_a_text_that_is_wholly_a_number_stays_one(text):
    assert f"key,value\nk,{text}\n" == to_csv({"k": text})
    assert f"{text}\n{text}\n" == to_csv([{text: text}])


@pytest.mark.parametrize("text", ["-75,63", "-1,234.56", "-1.234,56", "+,5"])
def test_a_number_with_a_comma_stays_one_too(text):
    assert f'key,value\nk,"{text}"\n' == to_csv({"k": text})
    assert f"k\n{text}\n" == to_csv({"rows": [{"k": text}], "delimiter": ";"})


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("\rx", "'\rx"),
        ("a\n-1", "a\n'-1"),
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
    ("payload", "begin"),
    [
        ([{"ID": 1, "name": "Ann"}], '"ID",name\n1,Ann\n'),
        ([{"ID": 1}], '"ID"\n1\n'),
        ([{"IDENTITY": 1, "b": 2}], '"IDENTITY",b\n'),
        ([{"ID,x": 1}], '"ID,x"\n'),
        ({"rows": [{"ID": 1, "b": 2}], "delimiter": ";"}, '"ID";b\n'),
        ({"rows": [], "columns": ["ID", "ID2"]}, '"ID",ID2\n'),
        # These are no SYLK's, nor at its place.
        ([{"id": 1}], "id\n"),
        ([{"Id": 1}], "Id\n"),
        ([{"a": 1, "ID": 2}], "a,ID\n"),
        ([{"a": "ID"}], "a\nID\n"),
        ({"ID": 1}, "key,value\nID,1\n"),
    ],
)
def test_no_file_begins_like_one_of_sylk(payload, begin):
    """Excel takes a file for SYLK by its first two bytes, and refuses it."""
    text = to_csv(payload)

    assert text.startswith(begin)
    assert not text.startswith("ID")


def test_the_object_form_says_how_the_file_is_written():
    payload = {
        "rows": [{"last": "Doe", "amount": "1,5", "id": 7}, {"id": 8, "note": "a;b"}],
        "columns": ["id", "note", "amount"],
        "delimiter": ";",
        "bom": True,
    }

    assert '\ufeffid;note;amount\n7;;1,5\n8;"a;b";\n' == to_csv(payload)


def test_the_byte_order_mark_is_in_the_file(tmp_path):
    attempt = JobContext(job_id=JOB_ID, number=1, outputs=LocalOutputs(tmp_path), mailer=MemoryMailer())

    generate_csv({"rows": [{"name": "Zoë"}], "bom": True}, attempt)

    assert b"\xef\xbb\xbfname\nZo\xc3\xab\n" == (tmp_path / f"{JOB_ID}.csv").read_bytes()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_delimiter_reads_back(delimiter):
    cells = {"a,b": "a;b", "c;d": "\t|,;", "ID": 'x"y', "e|f": "l\nm"}

    text = to_csv({"rows": [cells], "delimiter": delimiter})

    header, row = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    assert list(cells) == header
    assert ["a;b", "'\t|,;", 'x"y', "l\nm"] == row


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"rows": [{"b": 1, "a": 2}]}, "b,a\n1,2\n"),
        ({"rows": [{"a": 1}], "columns": None, "delimiter": None, "bom": None}, "a\n1\n"),
        ({"rows": [], "columns": ["a", "b"]}, "a,b\n"),
        ({"rows": [{}], "columns": ["a", "b"]}, "a,b\n,\n"),
        ({"rows": []}, ""),
        ({"rows": [], "bom": True}, "\ufeff"),
    ],
)
def test_what_the_object_form_leaves_out_is_as_ever(payload, text):
    assert text == to_csv(registry.get("csv-generation").parse(payload))


@pytest.mark.parametrize("rows", [3, "three", None, {"a": 1}, [1, 2], ["a"], [[1]], [None, {"a": 1}]])
def test_an_entry_that_happens_to_be_called_rows_is_an_entry(rows):
    payload = registry.get("csv-generation").parse({"name": "x", "rows": rows})

    assert to_csv(payload).startswith("key,value\nname,x\nrows,")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"columns": []}, "/payload/columns"),
        ({"columns": "a"}, "/payload/columns"),
        ({"columns": [1]}, "/payload/columns/0"),
        ({"columns": ["a", "b", "a"]}, "/payload/columns"),
        ({"delimiter": ""}, "/payload/delimiter"),
        ({"delimiter": ";;"}, "/payload/delimiter"),
        ({"delimiter": '"'}, "/payload/delimiter"),
        ({"delimiter": "\n"}, "/payload/delimiter"),
        ({"delimiter": 5}, "/payload/delimiter"),
        ({"bom": "yes"}, "/payload/bom"),
        ({"delimeter": ";"}, "/payload/delimeter"),
        ({"rows": [{"a": 1}, 5]}, "/payload/rows/1"),
    ],
)
def test_a_wrong_option_is_refused_and_pointed_at(changes, pointer):
    with pytest.raises(InvalidRequest) as raised:
        registry.get("csv-generation").parse({"rows": [{"a": 1}], **changes})

    assert pointer == raised.value.pointer


@pytest.mark.parametrize("many", [{"rows": [{"a": 1}] * 50_001, "columns": [str(n) for n in range(100)]}])
def test_the_object_form_has_the_same_limit(many):
    with pytest.raises(InvalidRequest, match="more than 5000000 cells"):
        registry.get("csv-generation").parse(many)


def test_a_stored_table_is_read_as_the_posted_one():
    """With decimals, where whoever reads the row keeps their digits."""
    stored = '{"rows":[{"b":12345678901234567.89,"a":0.10}],"columns":["b","a"]}'

    payload = msgspec.json.Decoder(float_hook=Decimal).decode(stored)

    assert "b,a\n12345678901234567.89,0.10\n" == to_csv(registry.get("csv-generation").parse(payload))


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
