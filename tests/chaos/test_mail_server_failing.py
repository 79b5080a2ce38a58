"""Fault 15: a mail server that refuses, breaks off, drags on or is none: the job's outcome, its history, the mails."""

import socket
from collections import Counter
from contextlib import suppress
from email import message_from_bytes

import pytest
from eventually import eventually
from smtp_server import FLOOD, HANG_UP, SILENCE, TARPIT, SmtpServer
from time_travel import set_dates

EHLO = "250-test\r\n250-AUTH PLAIN\r\n250 SMTPUTF8"
WILLING = {"EHLO": EHLO, "AUTH": "235 welcome"}

FINAL = {
    "nobody of this name": {"RCPT": "550 no such user"},
    "a sender it does not like": {"MAIL": "553 not you"},
    "a mail it does not like": {"CONTENT": "554 spam"},
}

TEMPORARY = {
    "closed for now": {"CONNECT": "421 later"},
    "gone at once": {"CONNECT": HANG_UP},
    "silent": {"CONNECT": SILENCE},
    "a byte now and then": {"CONNECT": TARPIT},
    "talking without end": {"EHLO": FLOOD},
    "no SMTP": {"CONNECT": "HTTP/1.1 400 Bad Request"},
    "a wrong password": {"AUTH": "535 no"},
    "greylisted": {"RCPT": "450 later"},
    "no room": {"MAIL": "452 full"},
    "not now": {"DATA": "451 later"},
    "gone before the mail": {"DATA": HANG_UP},
    "read and refused for now": {"CONTENT": "451 later"},
}

#: A job waits for so long and no longer, so that a test sees its end.
IMPATIENT = {"DEFER_LIMIT_SECONDS": "0.3"}

AMBIGUOUS = {"gone after the mail": {"CONTENT": HANG_UP}, "silent after the mail": {"CONTENT": SILENCE}}


@pytest.fixture
def server():
    with SmtpServer(dict(WILLING)) as server:
        yield server


@pytest.fixture
def mail_environ(server):
    return {
        "MAIL_HOST": "127.0.0.1",
        "MAIL_PORT": str(server.port),
        "MAIL_USERNAME": "jobs",
        "MAIL_PASSWORD": "secret",
        # Silence is what some of these tests are about; in the others a busy machine is not to look like it.
        "MAIL_TIMEOUT_SECONDS": "3",
    }


def test_each_answer_has_its_outcome(stack, server, mail_environ):
    """One after the other, since a server behaves in one way at a time."""
    stack.start(**mail_environ | IMPATIENT)

    def outcome(replies, **wishes):
        eventually(lambda: not stack.sql("SELECT FROM servers"), what="a server that nobody waits for any more")
        server.replies = WILLING | replies
        job_id = submit(stack, max_attempts=2, **wishes)
        job = eventually(lambda: finished(stack, job_id), what="an end")
        return job["end_reason"] or job["status"], job["attempts"], [entry_of(e) for e in job["history"]]

    with stack.no_process_ends():
        for what, replies in FINAL.items():
            assert ("rejected", 1, ["counted"]) == outcome(replies), what
        for what, replies in TEMPORARY.items():
            *ended, history = outcome(replies)
            assert (["unavailable", 0], {"not counted"}) == (ended, {*history}), what
        for what, replies in AMBIGUOUS.items():
            assert ("attempts_exhausted", 2, ["ambiguous", "ambiguous"]) == outcome(replies), what
            assert ("ambiguous", 1, ["ambiguous"]) == outcome(replies, on_ambiguous="hold"), what
        # None of all that has kept a thread.
        assert ("completed", 1, []) == outcome({})


def entry_of(entry):
    """Return what an attempt in the history was."""
    if entry.get("ambiguous"):
        return "ambiguous"
    return "counted" if entry.get("counted", True) else "not counted"


def test_mails_that_were_put_off_are_sent_once_when_the_server_is_well(stack, server, mail_environ):
    """Every temporary fault in turn, for jobs that have no second attempt: none of these uses one."""
    # Or they were sent before the first fault.
    server.replies = WILLING | TEMPORARY["closed for now"]
    stack.start(**mail_environ)
    jobs = [submit(stack, max_attempts=1) for _ in range(4)]
    with stack.no_process_ends():
        stack.strike()
        for replies in TEMPORARY.values():
            server.replies = WILLING | replies
            asked = server.connections
            eventually(lambda asked=asked: server.connections > asked, what="another try")
        server.replies = WILLING
        stack.settle()

    assert {"completed"} == stack.values(jobs, "status")
    sent = Counter(message_from_bytes(mail.content)["X-Job-ID"] for mail in server.mails)
    assert dict.fromkeys(jobs, 1) == sent


def test_a_server_that_does_not_accept_holds_no_thread(stack, mail_environ):
    """Its queue of connections is full, so the kernel does not even answer."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        stack.start(**mail_environ | IMPATIENT | {"MAIL_PORT": str(listener.getsockname()[1])})
        stack.strike()
        mails = [submit(stack, max_attempts=2) for _ in range(4)]
        stack.submit_load(8)
        stack.settle()

        assert {"unavailable"} == stack.values(mails, "end_reason")


def submit(stack, to="ann@example.net", **wishes):
    return stack.submit("EMAIL_SEND", {"to": to, "subject": "Hello", "body": "There"}, **wishes)


def metric(stack, name):
    with suppress(OSError):  # the process that serves it has yet to start
        return stack.service.metrics().get(name)
    return None


def finished(stack, job_id):
    job = stack.job(job_id)
    return job["finished_at"] and job


def test_a_server_that_stays_away_is_left_alone_and_forty_mails_flow_when_it_is_back(stack, server, mail_environ):
    """One at a time asks it, whatever the number of jobs, and no mail uses up its only attempt."""
    # Its pauses grow with the time away, to far more than the jobs' own waits.
    stack.start(workers=2, **mail_environ | {"DEFER_PROBE_SECONDS": "60"})
    server.replies = WILLING | {"CONNECT": "421 closing for backups"}
    name = f"smtp://127.0.0.1:{server.port}"

    stack.strike()
    jobs = [submit(stack, max_attempts=1) for _ in range(40)]
    eventually(lambda: metric(stack, f'jobs_breaker_open{{breaker="{name}"}}') == 1, what="an open breaker")
    deferred = 'jobs_attempts_total{actor_name="EMAIL_SEND",outcome="deferred",queue_name="default"}'
    eventually(lambda: (metric(stack, deferred) or 0) > 150, what="jobs that are put off again and again")
    assert server.connections < 75
    shown = eventually(lambda: _pending(stack.service.job(jobs[0])), what="a job between two tries")
    assert (name, 0) == (shown["waits_for"], shown["attempts"])
    assert "421 closing for backups" in shown["error"]
    assert shown["deferred_since"]
    set_dates(stack.sql, "servers", probe_at=0)
    server.replies = dict(WILLING)
    stack.settle()

    assert {("completed", 1, None)} == stack.values(jobs, "status", "attempts", "waits_for")
    assert {"not counted"} >= {entry_of(entry) for job_id in jobs for entry in stack.job(job_id)["history"]}
    eventually(lambda: not metric(stack, f'jobs_breaker_open{{breaker="{name}"}}'), what="a closed breaker")
    assert 40 == len(server.mails)


def _pending(shown):
    return shown if shown["status"] == "pending" else None


def test_a_mail_whose_server_restarts_is_sent_when_it_is_back(stack, server, mail_environ):
    """With as many attempts as it has by default, of which it uses one."""
    server.replies = WILLING | {"CONNECT": HANG_UP}
    stack.start(**mail_environ)
    stack.strike()
    job_id = submit(stack)
    asked = server.connections
    eventually(lambda: server.connections > asked + 8, what="far more tries than attempts")

    server.replies = dict(WILLING)
    stack.settle()

    assert ("completed", 1) == stack.row(job_id, "status", "attempts")
    assert 1 == len(server.mails)


def test_a_greylisted_mail_is_delivered_and_holds_up_no_other(stack, server, mail_environ):
    server.replies = WILLING | {"RCPT bea@example.net": "450 4.7.1 greylisted, come back later"}
    stack.start(**mail_environ)
    stack.strike()
    grey = submit(stack, to="bea@example.net")
    eventually(lambda: stack.job(grey)["deferrals"] > 5, what="far more tries than attempts")
    other = submit(stack)
    stack.until_ended([other])

    waiting = stack.job(grey)
    assert ("pending", 0, None) == (waiting["status"], waiting["attempts"], waiting["waits_for"])
    assert "450 4.7.1 greylisted, come back later" in waiting["error"]
    assert [] == stack.sql("SELECT name FROM servers")
    server.replies = dict(WILLING)
    stack.settle()
    assert ("completed", 1) == stack.row(grey, "status", "attempts")


def test_what_one_process_has_learnt_the_others_know(stack, server, mail_environ):
    """The server is away by a row alone, as if another host had found out. Two workers leave it alone."""
    stack.service.start_api()
    workers = [stack.service.start_worker(**mail_environ, WORKER_THREADS="2") for _ in range(2)]
    name = f"smtp://127.0.0.1:{server.port}"
    stack.sql(
        """INSERT INTO servers (name, error, probe_at) VALUES (%s, '421 closing', now() + interval '1 hour')
        RETURNING 1""",
        (name,),
    )
    jobs = [submit(stack, max_attempts=1) for _ in range(20)]
    for worker in workers:
        eventually(lambda worker=worker: "Job deferred" in stack.service.log(worker), what="a mail put off by each")

    assert 0 == server.connections
    deferred = eventually(lambda: all_deferred(stack, jobs), what="every mail deferred")
    assert {(name, f"{name} is away: 421 closing")} == stack.values(deferred, "waits_for", "error")
    set_dates(stack.sql, "servers", probe_at=0)
    stack.settle()
    assert 20 == len(server.mails)


def all_deferred(stack, jobs):
    found = stack.sql("SELECT id::text FROM jobs WHERE deferrals > 0 AND status = 'pending'")
    return jobs if {*jobs} == {job_id for (job_id,) in found} else None


def test_a_redis_that_loses_everything_meanwhile_changes_nothing(stack, own_valkey, server, mail_environ):
    server.replies = WILLING | {"CONNECT": "421 closing"}
    stack.start(workers=2, **mail_environ)
    jobs = [submit(stack, max_attempts=1) for _ in range(8)]
    eventually(lambda: stack.sql("SELECT FROM servers"), what="a server that is known to be away")

    stack.strike()
    with own_valkey.client() as client:
        client.flushall()
    assert stack.sql("SELECT FROM servers")
    server.replies = dict(WILLING)
    stack.settle()

    assert {"completed"} == stack.values(jobs, "status")
    assert 8 == len(server.mails)


def test_a_mail_with_an_end_waits_until_then_and_says_what_for(stack, server, mail_environ):
    server.replies = WILLING | {"CONNECT": "421 closing"}
    stack.start(**mail_environ)
    stack.strike()
    job_id = submit(stack)
    eventually(lambda: stack.job(job_id)["deferrals"], what="a mail that waits")
    set_dates(stack.sql, "jobs", [job_id], expires_at=1)

    stack.settle()

    assert ("failed", "unavailable", 0) == stack.row(job_id, "status", "end_reason", "attempts")
    assert "421 closing" in stack.job(job_id)["error"]


def test_a_mail_in_a_process_of_its_own_waits_like_the_others(stack, server, mail_environ):
    """A suspect has a process to itself, which knows no more of the server than its claim says."""
    server.replies = WILLING | {"CONNECT": "421 closing"}
    stack.start(**mail_environ)
    stack.strike()
    job_id = submit(stack, delay_seconds=3600)
    stack.sql(
        """UPDATE jobs SET worker_losses = 1,
        history = '[{"attempt": 1, "error": "WorkerLost", "counted": false}]' WHERE id = %s RETURNING 1""",
        (job_id,),
    )
    set_dates(stack.sql, "jobs", [job_id], run_at=0, publish_at=0)
    eventually(lambda: stack.job(job_id)["deferrals"] > 1, what="a mail that waits")
    server.replies = dict(WILLING)
    stack.settle()

    assert ("completed", 1) == stack.row(job_id, "status", "attempts")
