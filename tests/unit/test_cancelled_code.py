"""What code sees of a cancel, and that the built-in types stop between two steps of their work."""

from uuid import uuid4

import pytest
from smtp_server import SmtpServer

from actors import generate_csv, send_email
from jobs_service.errors import LeaseLost
from jobs_service.jobs.job_types import JobContext
from jobs_service.mail.mailer import MemoryMailer, SmtpMailer
from jobs_service.outputs.local import LocalOutputs

MAIL = send_email.Mail(to=("ann@example.com", "bob@example.com"), subject="s", body="b")


class CancelledAfter:
    """Says that the job is cancelled from the look with this number on."""

    def __init__(self, looks):
        self.looks = looks

    def __call__(self):
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def context(tmp_path):
    def context(*, looks, mailer=None):
        return JobContext(
            uuid4(), 1, LocalOutputs(tmp_path), mailer or MemoryMailer(), is_cancelled=CancelledAfter(looks)
        )

    return context


def test_both_names_say_the_same(context):
    cancelled, running = context(looks=0), context(looks=10)

    assert (True, True) == (cancelled.cancelled, cancelled.is_cancelled())
    assert (False, False) == (running.cancelled, running.is_cancelled())
    running.stop_if_cancelled()
    with pytest.raises(LeaseLost):
        cancelled.stop_if_cancelled()


@pytest.mark.parametrize("looks", [0, 1, 2, 3, 4])
def test_a_table_is_given_up_between_two_rows_and_before_its_file(context, tmp_path, looks):
    """A header, three rows, and then the file: five looks."""
    with pytest.raises(LeaseLost):
        generate_csv.generate_csv([{"a": 1}, {"a": 2}, {"a": 3}], context(looks=looks))

    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_a_mail_is_given_up_between_two_stages(context, looks):
    mailer = MemoryMailer()

    with pytest.raises(LeaseLost):
        send_email.send_email(MAIL, context(looks=looks, mailer=mailer))

    assert [] == mailer.sent


def test_a_mail_is_given_up_between_two_recipients():
    cancelled = CancelledAfter(1)

    def look():
        if cancelled():
            raise LeaseLost("cancelled")

    with SmtpServer() as server:
        mailer = SmtpMailer(host="127.0.0.1", port=server.port, sender="jobs@example.com")
        context = JobContext(uuid4(), 1, None, mailer.asking([].append, look))
        with pytest.raises(LeaseLost):
            send_email.send_email(MAIL, context)

    assert ["rcpt TO:<ann@example.com>"] == server.commands[2:]
