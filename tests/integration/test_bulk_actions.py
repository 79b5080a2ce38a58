"""Many jobs are cancelled, and many dead letters discarded, by actions whose members are fixed when they begin."""

import json
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import falcon.testing
import pytest
from rows import claim_one, complete_one, pruner
from samples import a_failure
from time_travel import HOUR, set_dates

from jobs_service.api.app import create_app
from jobs_service.events import (
    AttemptAmbiguous,
    BulkActionEnded,
    BulkActionStarted,
    JobCancelled,
    JobDiscarded,
)
from jobs_service.jobs import lifecycle, unfinished
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance.bulk_actions import BulkActions
from jobs_service.maintenance.service import Turn

CANCELLATIONS, DISCARDS = "/cancellations", "/dead-letters/discards"


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def service(database, dead_letters):
    """The service of a leader that has just begun."""
    return BulkActions(database, dead_letters, interval_seconds=1)


@pytest.fixture
def fail(database, submit, worker_id, dead_letters):
    """Write a job that has failed, and return its id."""

    def fail(**fields):
        claim = claim_one(database, submit(**fields), worker_id)
        assert lifecycle.fail(database, claim, a_failure(), reason=EndReason.REJECTED)
        dead_letters.push(claim.job_id)
        return claim.job_id

    return fail


def begin(client, path, **body):
    reply = client.simulate_post(path, json={"rate_per_second": 10_000, **body})
    assert 202 == reply.status_code, reply.json
    assert f"{path}/{reply.json['id']}" == reply.headers["location"]
    return reply.headers["location"]


def dry_run(client, path, **body):
    reply = client.simulate_post(path, json={"dry_run": True, **body})
    assert 200 == reply.status_code, reply.json
    return reply.json


@pytest.fixture
def finish(client, service):
    """Run the service as a leader does, until the action has ended."""

    def finish(path, *, service=service):
        for _ in range(1_000):
            service.run_once(Turn())
            if (found := client.simulate_get(path).json)["state"] != "running":
                return found
        raise AssertionError(found)

    return finish


@pytest.fixture
def run(database, submit, worker_id):
    """Begin an attempt of a job, by default of a new one."""
    return lambda job_id=None: claim_one(database, job_id or submit(), worker_id)


@pytest.fixture
def ambiguous(announced):
    """Return the announcements of effects that may have happened."""
    return lambda: [type(event) for event in announced if type(event) is AttemptAmbiguous]


def figures(action):
    return tuple(action[name] for name in ("state", "matched", "moved", "skipped"))


@pytest.fixture
def statuses(database):
    """Return the status of each job, by its id."""
    return lambda: dict(database.rows("SELECT id, status FROM jobs"))


def test_a_cancellation_cancels_what_is_not_finished_and_says_who_and_why(client, submit, run, finish, row):
    waiting, running = submit(), submit()
    run(running)

    ended = finish(begin(client, CANCELLATIONS, all=True, reason="withdrawn"))

    assert ("completed", 2, 2, 0) == figures(ended)
    assert {"kind": "cancellation", "reason": "withdrawn", "filter": {}, "requested_by": "anonymous"}.items() <= (
        ended.items()
    )
    for job_id in (waiting, running):
        assert ("cancelled", "withdrawn", "anonymous", "cancelled_by_operator") == row(
            job_id, "status", "cancel_reason", "cancelled_by", "end_reason"
        )


def test_a_cancellation_is_announced_with_each_of_its_jobs(client, submit, finish, announced):
    jobs = {str(submit()) for _ in range(2)}

    finish(begin(client, CANCELLATIONS, all=True))

    assert [BulkActionStarted, JobCancelled, JobCancelled, BulkActionEnded] == [type(event) for event in announced]
    assert jobs == {event.job_id for event in announced if type(event) is JobCancelled}


def test_every_filter_of_the_list_chooses(client, database, submit, run):
    mail = submit(type="EMAIL_SEND", queue="mail", tags=["a", "b"])
    running = run().job_id
    # The id of a job says when it was submitted, too.
    old = submit(id=UUID(int=int((time.time() - HOUR) * 1_000) << 80), tags=["a"])
    set_dates(database.rows, "jobs", [old], created_at=-HOUR)
    then = (datetime.now(UTC) - timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")

    for chosen, expected in (
        ({"status": "pending"}, {old, mail}),
        ({"status": "processing"}, {running}),
        ({"type": "email_send"}, {mail}),
        ({"type": "gone"}, set()),
        ({"queue": "mail"}, {mail}),
        ({"queue": "default"}, {old, running}),
        ({"tag": "a"}, {old, mail}),
        ({"tag": "a", "queue": "default"}, {old}),
        ({"created_before": then}, {old}),
        ({"created_after": then}, {mail, running}),
        ({"attempts_min": 1}, {running}),
    ):
        preview = dry_run(client, CANCELLATIONS, filter=chosen)
        found = {item["job_id"] for item in preview["sample"]}
        assert ({str(job_id) for job_id in expected}, len(expected), False) == (
            found,
            preview["count"],
            preview["is_capped"],
        ), chosen
        path = begin(client, CANCELLATIONS, filter=chosen)
        [members] = database.rows(
            "SELECT array_agg(job_id) FROM bulk_action_jobs WHERE action_id = %s", (path.rpartition("/")[2],)
        )
        assert expected == set(members[0] or ()), chosen


def test_canaries_are_cancelled_only_by_name(client, submit):
    submit(type="canary-default")

    assert 0 == dry_run(client, CANCELLATIONS, all=True)["count"]
    assert 1 == dry_run(client, CANCELLATIONS, filter={"type": "canary-default"})["count"]


def test_a_dry_run_changes_nothing_and_says_when_there_may_be_more(client, database, submit, monkeypatch):
    first = [submit() for _ in range(12)]
    before = database.rows("SELECT xmin::text FROM jobs ORDER BY id")

    preview = dry_run(client, CANCELLATIONS, all=True)

    assert (12, False) == (preview["count"], preview["is_capped"])
    assert set(map(str, first)) > {item["job_id"] for item in preview["sample"]}
    assert 10 == len(preview["sample"])
    monkeypatch.setattr(unfinished, "MOST_COUNTED", 5)
    preview = dry_run(client, CANCELLATIONS, all=True)
    assert (5, True) == (preview["count"], preview["is_capped"])
    assert before == database.rows("SELECT xmin::text FROM jobs ORDER BY id")
    assert [(0,)] == database.rows("SELECT (SELECT count(*) FROM bulk_actions) + count(*) FROM bulk_action_jobs")


@pytest.mark.parametrize("path", [CANCELLATIONS, DISCARDS])
def test_a_body_says_which_jobs_are_meant(client, path):
    for body, pointer in (
        ({}, "/filter"),
        ({"filter": {}}, "/filter"),
        ({"all": True, "filter": {"queue": "a"}}, "/all"),
        ({"filter": {"queues": "a"}}, "/filter/queues"),
        ({"filter": {"created_after": "now"}}, "/filter/created_after"),
        ({"all": True, "rate_per_second": 0}, "/rate_per_second"),
    ):
        reply = client.simulate_post(path, json=body)
        assert (422, pointer) == (reply.status_code, reply.json["errors"][0]["pointer"]), body


def test_a_status_that_cannot_be_cancelled_is_refused(client):
    reply = client.simulate_post(CANCELLATIONS, json={"filter": {"status": "completed"}})

    assert (422, "/filter/status") == (reply.status_code, reply.json["errors"][0]["pointer"])


def test_a_job_that_left_the_chosen_status_is_skipped_and_one_that_came_later_is_not_a_member(
    client, submit, run, finish, statuses
):
    waiting, started, ended = submit(), submit(), submit()
    path = begin(client, CANCELLATIONS, filter={"status": "pending"})
    late = submit()
    run(started)
    client.simulate_post(f"/jobs/{ended}/cancel")

    assert ("completed", 3, 1, 2) == figures(finish(path))
    assert {waiting: "cancelled", started: "processing", ended: "cancelled", late: "pending"} == statuses()
    assert client.simulate_get(f"/jobs/{ended}").json["cancel_reason"] is None


def test_a_completed_job_is_never_cancelled(client, database, submit, run, finish):
    job_id = submit()
    path = begin(client, CANCELLATIONS, all=True)
    complete_one(database, run(job_id), "1")

    assert ("completed", 1, 0, 1) == figures(finish(path))
    assert "completed" == client.simulate_get(f"/jobs/{job_id}").json["status"]


def test_a_cancelled_attempt_whose_effect_had_begun_is_noted(database, client, run, finish, ambiguous):
    lifecycle.begin_effect(database, run())

    finish(begin(client, CANCELLATIONS, all=True))

    assert [AttemptAmbiguous] == ambiguous()
    assert [(1,)] == database.rows("SELECT jsonb_array_length(history) FROM jobs")


def test_a_cancelled_member_that_is_run_again_is_not_cancelled_once_more(client, submit, service, finish, statuses):
    job_id = submit()
    path = begin(client, CANCELLATIONS, all=True)
    service.run_once(Turn())
    assert 200 == client.simulate_post(f"/jobs/{job_id}/retry").status_code

    assert ("completed", 1, 1, 0) == figures(finish(path))
    assert {job_id: "pending"} == statuses()


def test_a_discard_deletes_its_members_with_their_files_and_notes(client, database, fail, outputs, finish):
    gone = [fail() for _ in range(3)]
    outputs.write(f"{gone[0]}.csv", b"x")
    kept = outputs.write("other.csv", b"x")
    database.rows("INSERT INTO attempt_notes (job_id, lease, attempt, version) SELECT id, id, 1, 1 FROM jobs")

    finish(begin(client, DISCARDS, all=True))

    assert [(0, 0)] == database.rows("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM attempt_notes)")
    assert [("anonymous",)] * 3 == database.rows("SELECT discarded_by FROM discards")
    pruner(database, outputs, completed=1).run_once(Turn())
    assert [kept] == [f"output/{file.name}" for file in outputs._directory.glob("*.csv")]


def test_a_discard_deletes_no_job_that_was_run_again_or_failed_later(client, fail, dead_letters, finish, statuses):
    gone, other = [fail(queue="a") for _ in range(3)], fail(queue="b")
    assert 3 == dry_run(client, DISCARDS, filter={"queue": "a"})["count"]

    path = begin(client, DISCARDS, filter={"queue": "a"})
    # One of them was run again meanwhile.
    client.simulate_post(f"/jobs/{gone[2]}/retry")
    late = fail(queue="a")

    assert ("completed", 3, 2, 1) == figures(finish(path))
    assert {gone[2]: "pending", other: "failed", late: "failed"} == statuses()
    assert {str(other), str(late)} == set(dead_letters.ids())


def test_a_discard_is_announced_with_each_of_its_jobs(client, fail, finish, announced):
    jobs = [str(fail()) for _ in range(2)]
    announced.clear()

    finish(begin(client, DISCARDS, all=True))

    assert [BulkActionStarted, JobDiscarded, JobDiscarded, BulkActionEnded] == [type(event) for event in announced]
    assert jobs == [event.job_id for event in announced if type(event) is JobDiscarded]


def test_dead_letters_are_chosen_by_tag(client, fail):
    tagged, _ = fail(tags=["a", "b"]), fail()

    assert [str(tagged)] == [item["job_id"] for item in client.simulate_get("/dead-letters?tag=b").json["dead_letters"]]
    assert 1 == dry_run(client, DISCARDS, filter={"tag": "b"})["count"]


def test_an_action_is_stopped_and_the_rest_stays(client, database, submit, service, statuses):
    for _ in range(3):
        submit()
    path = begin(client, CANCELLATIONS, all=True, rate_per_second=0.1)
    service.run_once(Turn())

    stopped = client.simulate_post(f"{path}/cancel")

    assert (200, "cancelled", 1, "anonymous") == (
        stopped.status_code,
        stopped.json["state"],
        stopped.json["moved"],
        stopped.json["cancelled_by"],
    )
    assert stopped.json == client.simulate_post(f"{path}/cancel").json
    service.run_once(Turn())
    assert ["cancelled", "pending", "pending"] == sorted(statuses().values())
    assert [(0,)] == database.rows("SELECT count(*) FROM bulk_action_jobs")


@pytest.mark.parametrize(
    ("path", "name", "plural"), [(CANCELLATIONS, "cancellation", "cancellations"), (DISCARDS, "discard", "discards")]
)
def test_ended_actions_are_listed_by_kind_and_cannot_be_stopped(client, finish, path, name, plural):
    paths = [begin(client, path, all=True) for _ in range(2)]
    begin(client, "/dead-letters/redrives", all=True)
    for each in paths:
        finish(each)

    reply = client.simulate_post(f"{paths[0]}/cancel")

    assert (409, f"{name}_finished") == (reply.status_code, reply.json["code"])
    first = client.simulate_get(f"{path}?limit=1").json
    second = client.simulate_get(f"{path}?limit=1&cursor={first['next_cursor']}").json
    assert paths[::-1] == [f"{path}/{page[plural][0]['id']}" for page in (first, second)]
    assert second["next_cursor"] is None
    redrive_id = client.simulate_get("/dead-letters/redrives").json["redrives"][0]["id"]
    for action_id in ("0197a40b-91d2-7c44-8a1e-5d1f0c9b7e23", "nonsense", redrive_id):
        for reply in (client.simulate_get(f"{path}/{action_id}"), client.simulate_post(f"{path}/{action_id}/cancel")):
            assert (404, f"{name}_not_found") == (reply.status_code, reply.json["code"])


def test_a_leader_that_has_lost_its_lease_changes_nothing(client, database, submit, service, statuses):
    submit()
    begin(client, CANCELLATIONS, all=True)

    service.run_once(Turn(fence=-1))

    assert ["pending"] == list(statuses().values())
    assert [(1,)] == database.rows("SELECT count(*) FROM bulk_action_jobs")


def test_another_leader_goes_on(client, database, dead_letters, submit):
    for _ in range(3):
        submit()
    path = begin(client, CANCELLATIONS, all=True, rate_per_second=0.1)

    # Each leader changes one at once, and the last one finds that none is left.
    moved = []
    for _ in range(4):
        BulkActions(database, dead_letters, interval_seconds=1).run_once(Turn())
        moved.append(client.simulate_get(path).json["moved"])

    assert [1, 2, 3, 3] == moved
    assert "completed" == client.simulate_get(path).json["state"]


def test_the_filter_is_kept_as_it_was_understood(client, database):
    path = begin(client, CANCELLATIONS, filter={"type": "csv_generation", "status": "pending"})

    assert {"type": "csv-generation", "status": "pending"} == client.simulate_get(path).json["filter"]
    assert [({"type": "csv-generation", "status": "pending"},)] == [
        (json.loads(text),) for (text,) in database.rows("SELECT filter::text FROM bulk_actions")
    ]
