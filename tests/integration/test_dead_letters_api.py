"""Dead letters as a list and in groups, discarded, and redriven in operations whose members are fixed."""

from datetime import UTC, datetime, timedelta

import falcon.testing
import pytest
from rows import claim_one, complete_one, pruner
from samples import a_failure
from time_travel import HOUR, set_dates

from jobs_service.api.app import create_app
from jobs_service.events import BulkActionEnded, JobDiscarded, JobRedriven
from jobs_service.jobs import bulk_actions, dead_letters as dead_letter_rows, lifecycle, redrive_outcomes
from jobs_service.jobs.bulk_actions import Kind
from jobs_service.jobs.failures import MESSAGE_KEPT, storable
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance.bulk_actions import BulkActions, Rate
from jobs_service.maintenance.service import Turn

FULL = 'cannot write "{}.csv": no space left after {} bytes, job {}'


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def fail(database, submit, worker_id, dead_letters):
    """Write a job that has failed, and return its id."""

    def fail(message="m", *, error="OSError", reason=EndReason.REJECTED, **fields):
        claim = claim_one(database, submit(**fields), worker_id)
        assert lifecycle.fail(database, claim, a_failure(error=error, message=message), reason=reason)
        dead_letters.push(claim.job_id)
        return str(claim.job_id)

    return fail


@pytest.fixture
def fail_again(database, worker_id):
    def fail_again(job_id, message="m"):
        claim = claim_one(database, job_id, worker_id)
        assert lifecycle.fail(database, claim, a_failure(message=message), reason=EndReason.REJECTED)

    return fail_again


@pytest.fixture
def redrives(database, dead_letters):
    """The service of a leader that has just begun, at a rate that lets everything pass."""
    return BulkActions(database, dead_letters, interval_seconds=1)


@pytest.fixture
def get(client):
    def get(path):
        reply = client.simulate_get(path)
        assert 200 == reply.status_code, reply.json
        return reply.json

    return get


def ids(page):
    return [item["job_id"] for item in page["dead_letters"]]


def test_the_list_has_the_last_to_fail_first_and_what_says_why(get, fail, submit):
    first, second = fail("no space", error="OSError"), fail(reason=EndReason.ATTEMPTS_EXHAUSTED)
    submit()

    found = get("/dead-letters")

    assert [second, first] == ids(found)
    assert found["next_cursor"] is None
    item = found["dead_letters"][1]
    assert ("rejected", "no space", "OSError", 1) == tuple(
        item[name] for name in ("end_reason", "error", "error_class", "attempts")
    )


def test_every_filter_chooses(get, client, database, fail):
    old = fail(type="EMAIL_SEND", queue="mail")
    group = get("/dead-letters")["dead_letters"][0]["group_id"]
    new = fail(reason=EndReason.INVALID_PAYLOAD)
    set_dates(database.rows, "jobs", [old], created_at=-HOUR, finished_at=-HOUR)
    then = (datetime.now(UTC) - timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")

    for condition, expected in (
        ("type=email_send", [old]),
        ("queue=mail", [old]),
        ("end_reason=invalid_payload", [new]),
        (f"group={group}", [old]),
        (f"created_after={then}", [new]),
        (f"created_before={then}", [old]),
        (f"finished_after={then}", [new]),
        (f"finished_before={then}", [old]),
        (f"group={group}&finished_after={then}", []),
        ("type=gone", []),
    ):
        assert expected == ids(get(f"/dead-letters?{condition}")), condition
    for wrong, name in (
        ("end_reason=tired", "end_reason"),
        ("group=x", "group"),
        ("created_after=now", "created_after"),
    ):
        reply = client.simulate_get(f"/dead-letters?{wrong}")
        assert (422, name) == (reply.status_code, reply.json["errors"][0]["pointer"])


def test_pages_neither_skip_nor_repeat_and_look_at_few_rows_each(client, fail, monkeypatch):
    """Every third matches. A page that has looked at its share without finding enough is short, and not the last."""
    monkeypatch.setattr(dead_letter_rows, "LOOK", 4)
    failed = [fail(queue="rare" if number % 3 == 0 else "common") for number in range(12)]
    found, pages, path = [], 0, "/dead-letters?queue=rare&limit=2"
    while path:
        reply = client.simulate_get(path)
        found += ids(reply.json)
        pages += 1
        cursor = reply.json["next_cursor"]
        path = f"/dead-letters?queue=rare&limit=2&cursor={cursor}" if cursor else None
        assert bool(cursor) == ("rel=next" in reply.headers.get("link", ""))

    assert [failed[9], failed[6], failed[3], failed[0]] == found
    assert pages >= 3


def test_a_cursor_of_another_list_is_refused(client, fail):
    for _ in range(2):
        fail()
    cursor = client.simulate_get("/dead-letters?limit=1").json["next_cursor"]

    for path in (f"/dead-letters?limit=1&queue=x&cursor={cursor}", "/dead-letters?cursor=nonsense"):
        reply = client.simulate_get(path)
        assert (422, "cursor") == (reply.status_code, reply.json["errors"][0]["pointer"])


def test_errors_that_differ_in_details_are_one_group(get, fail):
    same = [
        fail(FULL.format(number, number * 17, f"0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a4{number}")) for number in range(3)
    ]
    fail(FULL.format(1, 2, 3), error="ValueError")

    groups = {group["error_class"]: group for group in get("/dead-letters/groups")["groups"]}

    assert {"OSError", "ValueError"} == groups.keys()
    group = groups["OSError"]
    assert 'cannot write "…": no space left after N bytes, job <id>' == group["message"]
    assert (3, same[-1], "open", None) == tuple(group[name] for name in ("count", "sample_job_id", "state", "decision"))
    assert group["first_seen"] < group["last_seen"]
    assert same[::-1] == ids(get(f"/dead-letters?group={group['id']}"))


def test_what_differs_between_messages_is_left_out(database):
    for message, pattern in (
        ("no answer from 10.0.0.1:25 after 3.5 s", "no answer from N after N s"),
        ("GET https://example.com/a?b=1 failed", "GET <url> failed"),
        ("<ann@example.com> refused", "<<address>> refused"),
        ("token 4f3a9c00deadbeef is old", "token <id> is old"),
        ("can't open 'x y' or `z`", 'can\'t open "…" or "…"'),
        ("Connection refused", "Connection refused"),
        ("two\n  lines", "two lines"),
        (None, ""),
        ("x" * 5_000, "x" * 200),
    ):
        assert (pattern,) == database.row("SELECT job_error_pattern(%s)", (message,)), message


def test_a_resolved_group_that_fails_again_is_open_again_and_an_ignored_one_is_not(client, get, fail):
    fail("a"), fail("b", error="ValueError")
    first, second = (group["id"] for group in get("/dead-letters/groups")["groups"])

    resolved = client.simulate_post(f"/dead-letters/groups/{first}/resolve", json={"reason": "mended"})
    ignored = client.simulate_post(f"/dead-letters/groups/{second}/ignore", json={"reason": "tests"})
    assert ("resolved", "ignored") == (resolved.json["state"], ignored.json["state"])
    assert ("mended", "anonymous") == tuple(resolved.json["decision"][name] for name in ("reason", "by"))
    assert [] == get("/dead-letters/groups?state=open")["groups"]

    fail("a"), fail("b", error="ValueError")

    assert [first] == [group["id"] for group in get("/dead-letters/groups?state=open")["groups"]]
    assert [second] == [group["id"] for group in get("/dead-letters/groups?state=ignored")["groups"]]
    assert "open" == client.simulate_post(f"/dead-letters/groups/{second}/reopen").json["state"]
    assert 2 == len(get("/dead-letters/groups?state=open")["groups"])


def test_a_group_has_how_many_failed_in_each_hour_and_where(client, get, database, fail, worker_id):
    failed = [fail() for _ in range(3)]
    set_dates(database.rows, "jobs", failed[:2], finished_at=-2 * HOUR)
    set_dates(database.rows, "jobs", failed[:1], finished_at=-30 * HOUR)
    [group] = get("/dead-letters/groups")["groups"]
    assert group["failed_by_hour"] is None

    found = get(f"/dead-letters/groups/{group['id']}?hours=4")

    assert {"id": group["id"], "count": 3, "failed_by_hour": [0, 1, 0, 1]}.items() <= found.items()
    [worker] = found["workers"]
    assert (str(worker_id), 3, found["last_seen"]) == tuple(worker[name] for name in ("worker_id", "jobs", "last_seen"))
    assert worker["host"] == database.row("SELECT hostname FROM workers")[0]
    [listed] = get("/dead-letters/groups?hours=4")["groups"]
    assert listed == {name: value for name, value in found.items() if name != "workers"}
    database.rows("DELETE FROM workers")
    [worker] = get(f"/dead-letters/groups/{group['id']}")["workers"]
    assert (None, None, None) == (worker["host"], worker["pid"], worker["started_at"])
    for group_id in ("8c1f2a6d-9be3-3f10-7c55-04d2a8f0e6b1", "nonsense"):
        reply = client.simulate_get(f"/dead-letters/groups/{group_id}")
        assert (404, "error_group_not_found") == (reply.status_code, reply.json["code"])
    assert 422 == client.simulate_get("/dead-letters/groups?hours=25").status_code


def test_a_group_is_counted_as_far_as_asked_and_groups_of_a_type_are_listed(get, fail, monkeypatch):
    monkeypatch.setattr(dead_letter_rows, "MOST_IN_AN_HOUR", 1)
    for _ in range(3):
        fail()
    fail(type="EMAIL_SEND")

    groups = get("/dead-letters/groups?count_to=2&hours=1")["groups"]
    mails = get("/dead-letters/groups?type=email_send")["groups"]

    assert {"csv-generation": (2, [1]), "EMAIL_SEND": (1, [1])} == {
        group["type"]: (group["count"], group["failed_by_hour"]) for group in groups
    }
    assert ["EMAIL_SEND"] == [group["type"] for group in mails]
    assert [] == get("/dead-letters/groups?type=gone")["groups"]


@pytest.mark.parametrize(
    "message",
    [
        "<script>alert('{}')</script> cannot load {}",
        "\u202e{} txet a si siht \u202c, said \u2067{}\u2069",
        "x" * 5_000 + " {} {}",
        '"' * 10_000 + "{}{}",
        "(((((" * 400 + "{} {}",
        "\N{GRINNING FACE}" * 3_000 + "{} {}",
        "% {} %s %(x)s \\ $1 {}",
    ],
    ids=["markup", "right to left", "long", "quotes", "brackets", "smileys", "signs"],
)
def test_hostile_messages_are_grouped(get, fail, message):
    for number in range(2):
        fail(storable(message.format(number, number), MESSAGE_KEPT))
    fail("another")

    groups = get("/dead-letters/groups?hours=1")["groups"]

    assert [1, 2] == sorted(group["count"] for group in groups)
    assert max(len(group["message"]) for group in groups) <= 200


def test_groups_come_in_pages_and_unknown_ones_are_not_there(client, get, fail):
    for word in ("alpha", "beta", "gamma"):
        fail(word)

    found, path = [], "/dead-letters/groups?limit=1"
    while path:
        page = get(path)
        found += [group["message"] for group in page["groups"]]
        path = page["next_cursor"] and f"/dead-letters/groups?limit=1&cursor={page['next_cursor']}"

    assert ["alpha", "beta", "gamma"] == sorted(found)
    for group_id in ("8c1f2a6d-9be3-3f10-7c55-04d2a8f0e6b1", "nonsense"):
        for verb in ("resolve", "ignore", "reopen"):
            reply = client.simulate_post(f"/dead-letters/groups/{group_id}/{verb}", json={"reason": "x"})
            assert (404, "error_group_not_found") == (reply.status_code, reply.json["code"])


def test_a_discarded_job_is_gone_with_its_file(client, database, fail, outputs, announced):
    job_id = fail()
    outputs.write(f"{job_id}.csv", b"x")
    other = outputs.write("other.csv", b"x")

    assert 204 == client.simulate_delete(f"/dead-letters/{job_id}").status_code

    assert 404 == client.simulate_get(f"/jobs/{job_id}").status_code
    assert [JobDiscarded] == [type(event) for event in announced]
    assert 404 == client.simulate_delete(f"/dead-letters/{job_id}").status_code
    pruner(database, outputs, completed=1).run_once(Turn())
    assert [other] == [f"output/{path.name}" for path in outputs._directory.glob("*.csv")]
    assert [(0,)] == database.rows("SELECT count(*) FROM discards")


def test_only_a_dead_letter_is_discarded(client, submit):
    waiting = submit()

    reply = client.simulate_delete(f"/dead-letters/{waiting}")

    assert (409, "wrong_status") == (reply.status_code, reply.json["code"])
    for job_id in ("0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41", "nonsense"):
        reply = client.simulate_delete(f"/dead-letters/{job_id}")
        assert (404, "dead_letter_not_found") == (reply.status_code, reply.json["code"])


def begin(client, **body):
    reply = client.simulate_post("/dead-letters/redrives", json={"rate_per_second": 10_000, **body})
    assert 202 == reply.status_code, reply.json
    assert f"/dead-letters/redrives/{reply.json['id']}" == reply.headers["location"]
    return reply.headers["location"]


def finish(redrives, client, path):
    """Run the service as a leader does, until the redrive has ended."""
    for _ in range(1_000):
        redrives.run_once(Turn())
        if (found := client.simulate_get(path).json)["state"] != "running":
            return found
    raise AssertionError(found)


def test_a_dry_run_counts_and_shows_and_changes_nothing(client, database, fail):
    failed = [fail(queue="a") for _ in range(12)] + [fail(queue="b")]
    before = database.rows("SELECT xmin::text FROM jobs ORDER BY id")

    reply = client.simulate_post("/dead-letters/redrives", json={"filter": {"queue": "a"}, "dry_run": True})

    assert (200, 12) == (reply.status_code, reply.json["count"])
    assert failed[:10] == [item["job_id"] for item in reply.json["sample"]]
    assert before == database.rows("SELECT xmin::text FROM jobs ORDER BY id")
    assert [(0, 0)] == database.rows(
        "SELECT (SELECT count(*) FROM bulk_actions), (SELECT count(*) FROM bulk_action_jobs)"
    )


def test_a_redrive_says_which_dead_letters_are_meant(client):
    for body, pointer in (
        ({}, "/filter"),
        ({"filter": {}}, "/filter"),
        ({"all": False}, "/filter"),
        ({"all": True, "filter": {"queue": "a"}}, "/all"),
        ({"filter": {"queues": "a"}}, "/filter/queues"),
        ({"all": True, "rate_per_second": 0}, "/rate_per_second"),
    ):
        reply = client.simulate_post("/dead-letters/redrives", json=body)
        assert (422, pointer) == (reply.status_code, reply.json["errors"][0]["pointer"]), body


def test_a_redrive_moves_its_members_and_no_job_that_fails_later(client, database, fail, fail_again, redrives):
    members, other = [fail(queue="a") for _ in range(3)], fail(queue="b")

    path = begin(client, filter={"queue": "a"})
    late = fail(queue="a")
    # One of them was run again meanwhile by itself, and has failed again.
    client.simulate_post(f"/jobs/{members[2]}/retry")
    fail_again(members[2])
    ended = finish(redrives, client, path)

    assert ("completed", 3, 2, 1) == tuple(ended[name] for name in ("state", "matched", "moved", "skipped"))
    assert {"filter": {"queue": "a"}, "requested_by": "anonymous"}.items() <= ended.items()
    statuses = dict(database.rows("SELECT id::text, status FROM jobs"))
    assert {
        members[0]: "pending",
        members[1]: "pending",
        members[2]: "failed",
        other: "failed",
        late: "failed",
    } == statuses


def test_what_a_redrive_moves_leaves_the_list_in_redis_and_is_announced(
    client, dead_letters, fail, redrives, announced
):
    members, other = [fail(queue="a") for _ in range(2)], fail(queue="b")

    finish(redrives, client, begin(client, filter={"queue": "a"}))

    assert [other] == dead_letters.ids()
    assert members == [event.job_id for event in announced if type(event) is JobRedriven]
    assert 1 == sum(type(event) is BulkActionEnded for event in announced)


@pytest.fixture
def redriven(client, fail, redrives):
    """Let as many jobs fail, and redrive all. Return the path of the outcomes, and the jobs."""

    def redriven(count):
        job_ids = [fail("first") for _ in range(count)]
        path = begin(client, all=True)
        finish(redrives, client, path)
        return f"{path}/outcomes", job_ids

    return redriven


def test_a_redrive_says_what_became_of_its_jobs(client, database, redriven, fail_again, worker_id):
    path, job_ids = redriven(5)
    complete_one(database, claim_one(database, job_ids[0], worker_id), "1")
    claim_one(database, job_ids[1], worker_id)
    client.simulate_post(f"/jobs/{job_ids[2]}/cancel")
    fail_again(job_ids[3], "second")

    found = client.simulate_get(path).json

    [failed] = found.pop("last_failed")
    assert {"pending": 1, "processing": 1, "completed": 1, "failed_again": 1, "cancelled": 1} == found
    assert (job_ids[3], "second") == (failed["job_id"], failed["error"])


def test_what_others_run_again_or_what_fails_later_is_no_outcome_of_a_redrive(client, redriven, fail, fail_again):
    path, _ = redriven(1)
    fail("later")
    other = fail("by itself")
    client.simulate_post(f"/jobs/{other}/retry")
    fail_again(other)

    assert (1, 0) == tuple(client.simulate_get(path).json[name] for name in ("pending", "failed_again"))


def test_the_outcomes_of_a_redrive_are_counted_up_to_a_number(get, redriven, fail_again, monkeypatch):
    path, job_ids = redriven(3)
    for job_id in job_ids:
        fail_again(job_id)
    monkeypatch.setattr(redrive_outcomes, "MOST_COUNTED", 2)
    monkeypatch.setattr(redrive_outcomes, "SAMPLE", 1)

    found = get(path)

    assert (2, [job_ids[-1]]) == (found["failed_again"], [job["job_id"] for job in found["last_failed"]])


def test_a_job_counts_with_its_last_redrive(client, get, redriven, fail_again, redrives):
    first, job_ids = redriven(1)
    fail_again(job_ids[0])

    second = begin(client, all=True)
    finish(redrives, client, second)

    assert [0, 1] == [get(path)["pending"] for path in (first, f"{second}/outcomes")]
    for redrive_id in ("0197a40b-91d2-7c44-8a1e-5d1f0c9b7e23", "nonsense"):
        reply = client.simulate_get(f"/dead-letters/redrives/{redrive_id}/outcomes")
        assert (404, "redrive_not_found") == (reply.status_code, reply.json["code"])


def test_a_job_that_fails_again_during_a_redrive_is_not_run_once_more(client, database, fail, fail_again, redrives):
    job_id = fail()
    path = begin(client, all=True)
    redrives.run_once(Turn())
    fail_again(job_id)

    ended = finish(redrives, client, path)

    assert (1, 0) == (ended["moved"], ended["skipped"])
    assert [("failed",)] == database.rows("SELECT status FROM jobs")


def test_a_redrive_is_stopped_and_the_rest_stays(client, database, dead_letters, fail):
    for _ in range(3):
        fail()
    path = begin(client, all=True, rate_per_second=0.1)
    redrives = BulkActions(database, dead_letters, interval_seconds=1)
    redrives.run_once(Turn())

    stopped = client.simulate_post(f"{path}/cancel")

    assert (200, "cancelled", 1, "anonymous") == (
        stopped.status_code,
        stopped.json["state"],
        stopped.json["moved"],
        stopped.json["cancelled_by"],
    )
    assert stopped.json == client.simulate_post(f"{path}/cancel").json
    redrives.run_once(Turn())
    assert [(2, 0)] == database.rows(
        "SELECT count(*) FILTER (WHERE status = 'failed'), (SELECT count(*) FROM bulk_action_jobs) FROM jobs"
    )


def test_a_completed_redrive_cannot_be_stopped_and_is_listed(client, get, fail, redrives):
    fail()
    paths = [begin(client, all=True) for _ in range(2)]
    for path in paths:
        finish(redrives, client, path)

    reply = client.simulate_post(f"{paths[0]}/cancel")

    assert (409, "redrive_finished") == (reply.status_code, reply.json["code"])
    first = get("/dead-letters/redrives?limit=1")
    second = get(f"/dead-letters/redrives?limit=1&cursor={first['next_cursor']}")
    assert [1, 1] == [len(page["redrives"]) for page in (first, second)]
    assert paths[::-1] == [f"/dead-letters/redrives/{page['redrives'][0]['id']}" for page in (first, second)]
    for redrive_id in ("0197a40b-91d2-7c44-8a1e-5d1f0c9b7e23", "nonsense"):
        assert 404 == client.simulate_get(f"/dead-letters/redrives/{redrive_id}").status_code
        assert 404 == client.simulate_post(f"/dead-letters/redrives/{redrive_id}/cancel").status_code


def test_a_leader_that_has_lost_its_lease_moves_nothing(client, database, fail, redrives):
    fail()
    begin(client, all=True)

    redrives.run_once(Turn(fence=-1))

    assert [("failed", 1)] == database.rows("SELECT status, (SELECT count(*)::int FROM bulk_action_jobs) FROM jobs")


def test_a_redrive_that_is_begun_twice_is_one(database, fail):
    """Its reply was lost, and the statement was sent again."""
    fail()
    redrive_id = claim_id = "0197a40b-91d2-7c44-8a1e-5d1f0c9b7e23"
    begun = [
        bulk_actions.begin(
            database, redrive_id, Kind.REDRIVE, dead_letter_rows.selection({}), text="{}", rate_per_second=1, by="b"
        )
        for _ in range(2)
    ]

    assert begun[0] == begun[1]
    assert 1 == begun[0].matched
    assert [(1,)] == database.rows("SELECT count(*) FROM bulk_action_jobs WHERE action_id = %s", (claim_id,))


def test_a_rate_lets_pass_what_has_gathered_but_no_more_than_a_second_gives():
    seconds = [0.0]
    rate = Rate(10, clock=lambda: seconds[0])

    taken = [rate.take(500)]
    for at in (0.5, 0.55, 100.0):
        seconds[0] = at
        taken.append(rate.take(500))

    assert [1, 5, 0, 10] == taken
    assert pytest.approx(0.1) == rate.seconds_to_next


def test_completed_jobs_are_no_dead_letters(get, database, submit, worker_id):
    complete_one(database, claim_one(database, submit(), worker_id), "1")

    assert [] == ids(get("/dead-letters"))
    assert [] == get("/dead-letters/groups")["groups"]
