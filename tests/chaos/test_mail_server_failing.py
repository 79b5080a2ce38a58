"""Fault 15: a mail server that refuses, breaks off, drags on or is none: the job's outcome, its history, the mails."""

import socket
from collections import Counter
from contextlib import suppress
from email import message_from_bytes

import pytest
from eventually import eventually
from smtp_server import FLOOD, HANG_UP, SILENCE, TARPIT, SmtpServer

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
        "MAIL_TIMEOUT_SECONDS": "0.5",
        # Out of the way, where it is not the point.
        "MAIL_BREAKER_FAILURES": "1000",
    }


def test_each_answer_has_its_outcome(stack, server, mail_environ):
    """One after the other, since a server behaves in one way at a time."""
    stack.start(**mail_environ)

    def outcome(replies, **wishes):
        server.replies = WILLING | replies
        job_id = submit(stack, max_attempts=2, **wishes)
        job = eventually(lambda: finished(stack, job_id), what="an end")
        return job["dead_reason"] or job["status"], job["attempts"], [bool(e.get("ambiguous")) for e in job["history"]]

    with stack.nobody_ends():
        for what, replies in FINAL.items():
            assert ("rejected", 1, [False]) == outcome(replies), what
        for what, replies in TEMPORARY.items():
            assert ("attempts_exhausted", 2, [False, False]) == outcome(replies), what
        for what, replies in AMBIGUOUS.items():
            assert ("attempts_exhausted", 2, [True, True]) == outcome(replies), what
            assert ("ambiguous", 1, [True]) == outcome(replies, on_ambiguous="hold"), what
        # None of all that has kept a thread.
        assert ("completed", 1, []) == outcome({})


def test_mails_that_were_put_off_are_sent_once_when_the_server_is_well(stack, server, mail_environ):
    """Every temporary fault in turn, for jobs that may try again and again."""
    # Or they were sent before the first fault.
    server.replies = WILLING | TEMPORARY["closed for now"]
    stack.start(**mail_environ)
    jobs = [submit(stack, max_attempts=100) for _ in range(4)]
    with stack.nobody_ends():
        stack.strike()
        for replies in TEMPORARY.values():
            server.replies = WILLING | replies
            asked = server.connections
            eventually(lambda asked=asked: server.connections > asked, what="another try")
        server.replies = WILLING
        stack.settle()

    assert {"completed"} == {stack.job(job_id)["status"] for job_id in jobs}
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
        stack.start(**mail_environ | {"MAIL_PORT": str(listener.getsockname()[1])})
        stack.strike()
        mails = [submit(stack, max_attempts=2) for _ in range(4)]
        stack.submit_load(8)
        stack.settle()

        assert {"attempts_exhausted"} == {stack.job(job_id)["dead_reason"] for job_id in mails}


def submit(stack, **wishes):
    return stack.submit("EMAIL_SEND", {"to": "ann@example.net", "subject": "Hello", "body": "There"}, **wishes)


def metric(stack, name):
    with suppress(OSError):  # the process that serves it has yet to start
        return stack.service.metrics().get(name)
    return None


def finished(stack, job_id):
    job = stack.job(job_id)
    return job["finished_at"] and job


def test_a_server_that_stays_away_is_left_alone_and_no_mail_uses_up_its_attempts(stack, server, mail_environ):
    breaker = {"MAIL_BREAKER_FAILURES": "3", "MAIL_BREAKER_SECONDS": "0.5"}
    stack.start(**mail_environ | breaker)
    server.replies = WILLING | {"CONNECT": "421 later"}
    opened = 'jobs_breaker_open{breaker="smtp"}'

    stack.strike()
    jobs = [submit(stack, max_attempts=3) for _ in range(12)]
    eventually(lambda: metric(stack, opened) == 1, what="an open breaker")
    # Far more than the attempts that the jobs have together would make, were they counted and not put off.
    put_off = 'jobs_snoozed_total{actor_name="EMAIL_SEND",queue_name="default"}'
    eventually(lambda: (metric(stack, put_off) or 0) > 40, what="jobs that are put off again and again")
    assert server.connections < 36
    server.replies = dict(WILLING)
    stack.settle()

    assert {"completed"} == {stack.job(job_id)["status"] for job_id in jobs}
    # The failures that opened it counted, and no others.
    assert 2 >= sum(len(stack.job(job_id)["history"]) for job_id in jobs)
    eventually(lambda: metric(stack, opened) == 0, what="a closed breaker")
