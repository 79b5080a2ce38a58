"""Request bodies that nobody would write, for Hypothesis: JSON as text, so that it may hold what no value can be."""

import json

from hypothesis import strategies as st

#: One of each kind that some JSON reader takes in another way than the next, or that PostgreSQL cannot keep.
HOSTILE = [
    "NaN", "-Infinity", "Infinity", "1e400", "-1e400", "1e-400", "1e308", "5e-324", "-0", "-0.0", "1E+2", "01", "+1",
    "1.", ".5", "0x10", "1_000", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" * 30,
    "1" * 5_000, "1." + "1" * 400, r'"\u0000"', '"\0"', r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', '"\uffff"',
    '"\u2028"', '"\ufeff"', '"\x7f"', '"\n"', '"\t"', '"=1+1"', '"../../etc/passwd"', '"a@b.example,c@d.example"',
    '"s\\r\\nBcc: x@y.example"', "null", "true", "True", "[]", "{}", '""', "'a'",
    '{"a":1,"a":2}', '{"a":1,"\\u0061":2}',
    '{"":1}', '{"__proto__":1}', "[1,]", '{"a":1,}', "/**/1", "[" * 31 + "]" * 31, "[" * 33 + "]" * 33,
    '{"a":' * 33 + "1" + "}" * 33, '"2026-01-01T00:00:00Z"', '"2026-01-01T00:00:60Z"', '"0000-00-00T00:00:00Z"',
    '"9999-12-31T23:59:59-23:59"', '"0001-01-01T00:00:00+23:59"', '"EMAIL_SEND"', '"csv_GENERATION"',
]  # fmt: skip

NAMES = ["type", "payload", "run_at", "delay_seconds", "max_attempts", "priority", "to", "subject", "body", "html",
         "cc", "bcc", "reply_to", "a", "", "~/", "\u0131", "\u212a"]  # fmt: skip

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)
LEAVES = st.sampled_from(HOSTILE) | PLAIN.map(json.dumps) | st.text(max_size=8).map(lambda text: f'"{text}"')
KEYS = st.sampled_from(NAMES).map(json.dumps) | st.text(max_size=6).map(json.dumps)


def _object(members: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{value}" for name, value in members) + "}"


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arrays = st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
    return arrays | st.lists(st.tuples(KEYS, inner), max_size=4).map(_object)


VALUES = st.recursive(LEAVES, _grown, max_leaves=10)

#: Accepted bodies of both kinds, field by field.
_GOOD = [
    {"type": '"csv-generation"', "payload": '{"name":"Alice","score":95}', "priority": "7", "max_attempts": "2"},
    {"type": '"csv-generation"', "payload": '[{"a":1},{"b":[null]}]', "delay_seconds": "1.5"},
    {"type": '"EMAIL_SEND"', "payload": '{"to":"a@b.example","subject":"s","body":"b"}'},
]


def _near(good: dict[str, str], wrong: dict[str, str]) -> str:
    return _object([(json.dumps(name), value) for name, value in {**good, **wrong}.items()])


_FIELDS = ["type", "payload", "run_at", "delay_seconds", "max_attempts", "priority", "surprise"]
#: Values that some field takes.
_LIKELY = st.sampled_from(["null", "1", "9", "0", "10", "1.0", "0.5", '{"a":[1.5]}', '"csv_GENERATION"'])

#: A good body with one or two fields replaced.
NEAR_VALID = st.builds(
    _near, st.sampled_from(_GOOD), st.dictionaries(st.sampled_from(_FIELDS), _LIKELY | VALUES, min_size=1, max_size=2)
)
#: A good body around a payload of any shape.
ANY_PAYLOAD = st.builds(
    lambda payload: '{"type":"csv-generation","payload":%s}' % payload,  # noqa: UP031 - braces all over
    st.lists(st.tuples(KEYS, PLAIN.map(json.dumps) | VALUES), max_size=4).map(_object) | VALUES,
)
TEXTS = VALUES | NEAR_VALID | ANY_PAYLOAD


def _cut_and_flipped(raw: bytes, place: int, byte: int) -> bytes:
    place %= len(raw) + 1
    return raw[:place] + bytes([byte]) + raw[place + byte % 3 :]


ENCODED = TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
#: Bytes of a request body: JSON, nearly JSON, and anything.
BODIES = (
    ENCODED | st.builds(_cut_and_flipped, ENCODED, st.integers(0, 500), st.integers(0, 255)) | st.binary(max_size=64)
)
