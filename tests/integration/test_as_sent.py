"""Payload and result come back as they were sent: names in their order, numbers with all their digits."""

import json
from decimal import Decimal
from uuid import UUID

import falcon.testing
import msgspec
import pytest
from as_sent import spelled
from hostile_json import VALUES
from hypothesis import HealthCheck, example, given, settings
from rows import claim_one, complete_one, insert_by_hand

from jobs_service.api import request_body
from jobs_service.api.app import create_app
from jobs_service.errors import InvalidRequest
from jobs_service.jobs import lifecycle
from jobs_service.jobs.jsonb import preserves
from jobs_service.jobs.lifecycle import ClaimRequest

#: What careful people post, and the file that is right.
CSV = {
    "small numbers": (
        '{"a":0.00001,"b":2.5e-6,"c":1e-7,"d":1e20,"e":0.5}',
        "key,value\na,0.00001\nb,0.0000025\nc,0.0000001\nd,100000000000000000000\ne,0.5\n",
    ),
    "digits": (
        '{"rate":0.123456789012345678,"balance":12345678901234567.89}',
        "key,value\nrate,0.123456789012345678\nbalance,12345678901234567.89\n",
    ),
    "digits in lists and objects": (
        '[{"z":{"y":[0.123456789012345678,{"x":1.10}]}}]',
        'z\n"{""y"":[0.123456789012345678,{""x"":1.10}]}"\n',
    ),
    "zeros at the end": ('{"one":1,"point":1.0,"money":1.50}', "key,value\none,1\npoint,1.0\nmoney,1.50\n"),
    "long whole numbers": (
        '{"iban":123456789012345678901234,"id":9223372036854775808}',
        "key,value\niban,123456789012345678901234\nid,9223372036854775808\n",
    ),
    "a negative zero": ('{"zero":-0,"point":-0.0}', "key,value\nzero,0\npoint,-0.0\n"),
    "sylk": ('[{"ID":1,"name":"Ann"}]', '"ID",name\n1,Ann\n'),
    "column order": ('[{"last_name":"Doe","first_name":"Ann","id":7}]', "last_name,first_name,id\nDoe,Ann,7\n"),
    "column order of several": ('[{"zz":1,"b":2},{"y":3,"b":4}]', "zz,b,y\n1,2,\n,4,3\n"),
    "order of entries": ('{"name":"Ann","id":7}', "key,value\nname,Ann\nid,7\n"),
    "amounts as text": (
        """{"amount":"-75.63","plain":"+5","evil":"-2+3+cmd|' /C calc'!A0","phone":"+49 151 0000000"}""",
        "key,value\namount,-75.63\nplain,+5\nevil,'-2+3+cmd|' /C calc'!A0\nphone,'+49 151 0000000\n",
    ),
    "mark and delimiter": (
        '{"rows":[{"name":"Zoë","id":7,"rate":1.10}],"columns":["rate","name"],"delimiter":";","bom":true}',
        "\ufeffrate;name\n1.10;Zoë\n",
    ),
    "the form without columns": ('{"rows":[{"name":"Ann","id":7}],"delimiter":";"}', "name;id\nAnn;7\n"),
}

#: The database serves all the examples of a test.
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

#: In an order that jsonb does not keep, with numbers that it writes in another way.
SENT = '{"name":"Zoë","id":-0,"rate":1e2}'


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def shown(client):
    """Return the texts of what the API shows of a job, alone and in every list."""

    def shown(job_id):
        alone = members(client.simulate_get(f"/jobs/{job_id}").content)
        status, job_type = json.loads(alone["status"]), json.loads(alone["type"])
        # The application of this process does not know the tests' types.
        types = [{"type": job_type}, {"type": job_type, "status": status}] * (not job_type.startswith("test-"))
        for filters in ({}, {"status": status}, *types):
            page = members(client.simulate_get("/jobs", params=filters).content)
            listed = map(members, msgspec.json.decode(page["jobs"], type=list[msgspec.Raw]))
            assert alone == next(job for job in listed if job["job_id"] == alone["job_id"])
        return alone

    return shown


def members(text):
    return {name: bytes(raw).decode() for name, raw in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}


@pytest.fixture
def submit_text(submit):
    def submit_text(payload, **fields):
        return submit(payload=msgspec.Raw(payload.encode()), **fields)

    return submit_text


def test_a_csv_is_what_was_sent_in_file_row_and_answer(service, shown, row, tmp_path):
    service.start_api()
    service.start_worker()
    job_ids = {name: service.post_text("csv-generation", payload) for name, (payload, _) in CSV.items()}

    for name, (payload, file) in CSV.items():
        job = service.when(job_ids[name], "completed")
        assert file == (tmp_path / job["result"]).read_bytes().decode(), name
        assert spelled(payload) == spelled(shown(job_ids[name])["payload"]), name
        kept = json.loads(row(job_ids[name], "payload"), parse_float=Decimal)
        assert json.loads(payload, parse_float=Decimal) == kept, name


#: Job type, payload, and what its function returns: the payload as it got it.
ECHOES = [
    ("test-echo", SENT, '{"name":"Zoë","id":0,"rate":100.0}'),
    ("test-echo", '{"rate":0.123456789012345678}', '{"rate":0.12345678901234568}'),
    ("test-echo-decimals", SENT, '{"name":"Zoë","id":0,"rate":1E+2}'),
    (
        "test-echo-decimals",
        '[{"rate":0.123456789012345678,"n":12345678901234567890123}]',
        '[{"rate":0.123456789012345678,"n":12345678901234567890123}]',
    ),
    (
        "test-echo-amounts",
        '{"whole":12345678901234567890123,"rough":1e2,"exact":0.123456789012345678}',
        '{"exact":0.123456789012345678,"rough":100.0,"whole":12345678901234567890123,"any":null}',
    ),
]


def test_a_result_is_what_the_function_returned(service, shown):
    service.start_api()
    service.start_worker()
    job_ids = [service.post_text(job_type, payload) for job_type, payload, _ in ECHOES]

    for job_id, (_, payload, result) in zip(job_ids, ECHOES, strict=True):
        service.when(job_id, "completed")
        assert spelled(payload) == spelled(shown(job_id)["payload"])
        assert spelled(result) == spelled(shown(job_id)["result"])


def test_the_common_payload_and_result_are_kept_once(submit_text, database, worker_id, row):
    job_id = submit_text('{ "name" : "Alice" , "rate" : 1.50, "score" : 95 }')
    complete_one(database, claim_one(database, job_id, worker_id), '"output/x.csv"')

    assert (None, None) == row(job_id, "payload_text", "result_text")


def test_a_batch_of_claims_hands_each_its_own_text(submit_text, database, worker_id):
    sent = [SENT, "{}", '{"b":1,"a":2}', '{"a":1,"b":2}']
    asks = [ClaimRequest(submit_text(payload), worker_id) for payload in sent]

    claims = lifecycle.claim(database, asks)
    again = lifecycle.claim(database, asks)

    for found in (claims, again):
        assert list(map(spelled, sent)) == [spelled(claim.payload) for claim in found]


def test_a_job_that_runs_again_has_its_payload_and_no_old_result(submit_text, database, worker_id, shown, row):
    job_id = submit_text(SENT)
    complete_one(database, claim_one(database, job_id, worker_id), '{"b":1,"a":2}')
    assert '{"b":1,"a":2}' == shown(job_id)["result"]

    assert lifecycle.redrive(database, job_id)

    assert (None, None) == row(job_id, "result", "result_text")
    assert "null" == shown(job_id)["result"]
    claim = claim_one(database, job_id, worker_id)
    assert SENT == claim.payload
    complete_one(database, claim, '{"a":1,"b":2}')
    assert '{"a": 1, "b": 2}' == shown(job_id)["result"]


def test_a_payload_that_was_changed_in_the_row_counts(submit_text, database, worker_id, shown):
    """An operator mends a dead letter's payload, and knows of no text."""
    job_id = submit_text(SENT)

    database.rows("UPDATE jobs SET payload = jsonb_set(payload, '{id}', '7') WHERE id = %s", (job_id,))

    assert {"name": "Zoë", "id": 7, "rate": 100} == json.loads(shown(job_id)["payload"])
    assert 7 == json.loads(claim_one(database, job_id, worker_id).payload)["id"]


def test_the_version_before_leaves_no_text_that_counts(submit_text, database, worker_id, shown):
    """It knows the jsonb columns alone: it redrives a job whose result has a text, and completes it otherwise."""
    job_id = submit_text(SENT)
    complete_one(database, claim_one(database, job_id, worker_id), '{"b":1,"a":2}')

    database.rows("UPDATE jobs SET result = NULL WHERE id = %s", (job_id,))
    assert "null" == shown(job_id)["result"]
    database.rows("UPDATE jobs SET result = '5' WHERE id = %s", (job_id,))
    assert "5" == shown(job_id)["result"]


def test_a_row_that_was_written_by_hand_is_a_job(database, worker_id, shown):
    job_id = UUID(int=7)
    insert_by_hand(database, job_id, payload='{"name":1,"id":2}')

    assert '{"id": 2, "name": 1}' == shown(job_id)["payload"]
    assert '{"id": 2, "name": 1}' == claim_one(database, job_id, worker_id).payload


def is_a_json_value(text):
    try:
        request_body.check(text.encode("utf-8", "surrogatepass"))
    except InvalidRequest:
        return False
    return True


@many
@given(text=VALUES)
@example('{"b":1,"a":2}')
@example('{"é":1,"ab":2,"z":3}')
@example("[-0,0e5,1E-5,1.10]")
def test_what_is_said_of_jsonb_is_what_postgresql_does(database, text):
    """The text is kept where jsonb would change it, and only there."""
    if is_a_json_value(text):
        [(kept,)] = database.rows("SELECT %s::jsonb::text", (text,))
        assert (spelled(text) == spelled(kept)) == preserves(text)


@many
@given(text=VALUES)
def test_any_result_comes_back_as_it_was_returned(submit_text, database, worker_id, client, text):
    if is_a_json_value(text):
        job_id = submit_text("{}")
        assert complete_one(database, claim_one(database, job_id, worker_id), text)

        assert spelled(text) == spelled(members(client.simulate_get(f"/jobs/{job_id}").content)["result"])
