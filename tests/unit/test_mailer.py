"""The SMTP mailer, against a real server that misbehaves in every way we know."""

import errno
import socket
import ssl
import time
from email import policy
from email.message import EmailMessage

import pytest
import structlog
import trustme

from jobs_service.config import Settings
from jobs_service.errors import KnownUnavailable, LeaseLost, OutcomeUnknown, Rejected, SettingsError, Unavailable
from jobs_service.mail.mailer import DeliveryUnknown, MailNotTaken, MemoryMailer, SmtpMailer
from tests.smtp_server import AND_HANG_UP, CUT_SHORT, DEAF, FLOOD, HANG_UP, SILENCE, TARPIT, SmtpServer

ANN, BEN = "ann@example.net", "ben@example.net"
#: Long enough for a busy machine to get through a whole conversation.
PLENTY = 20.0
#: Short, and counted: nothing may hold a thread much longer.
SHORT = 0.4
#: As short, but long enough to get as far as the mail itself.
ENOUGH = 2.0
#: What a thread may take beyond its deadline on a machine that is busy with other things.
GRACE = 20.0


def mailer_for(server: SmtpServer, **options) -> SmtpMailer:
    return SmtpMailer(
        **{"host": "127.0.0.1", "port": server.port, "sender": "Jobs <jobs@example.com>", "timeout_seconds": PLENTY}
        | options
    )


def a_message(body: str = "hello") -> EmailMessage:
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = "Jobs <jobs@example.com>"
    message["To"] = ANN
    message["Subject"] = "A test"
    message.set_content(body)
    return message


def send(replies: dict[str, str], *recipients: str, body: str = "hello", **options) -> SmtpServer:
    """Send one mail to a server that gives these replies, and return the server as it is afterwards."""
    with SmtpServer(replies) as server:
        mailer_for(server, **options).send(a_message(body), recipients=recipients or (ANN,))
    return server


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def server_tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_mail_arrives_as_it_was_written():
    server = send({}, body="one\n.\n..two\n")

    (mail,) = server.mails
    assert "jobs@example.com" == mail.sender
    assert [ANN] == mail.recipients
    assert mail.content.endswith(b"\r\n\r\none\r\n.\r\n..two\r\n")


def test_the_envelope_is_the_recipients_whatever_the_headers_say():
    server = send({}, BEN, "cyd@example.net")

    assert [BEN, "cyd@example.net"] == server.mails[0].recipients
    assert b"To: ann@example.net\r\n" in server.mails[0].content


def test_a_mail_larger_than_one_piece_arrives_whole():
    body = "".join(f"line {number}\n" for number in range(50_000))

    server = send({}, body=body)

    assert server.mails[0].content.endswith(body.replace("\n", "\r\n").encode())


def test_a_server_that_only_knows_helo_will_do():
    server = send({"EHLO": "502 what?"})

    assert [ANN] == server.mails[0].recipients


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT"])
@pytest.mark.parametrize("then", ["", AND_HANG_UP])
@pytest.mark.parametrize(
    "words", ["421 4.7.0 come back at noon", "451 4.3.0 disk trouble", "421-4.7.0 come\r\n421 back"]
)
def test_what_the_server_said_is_in_the_error(verb, words, then):
    with pytest.raises(Unavailable) as raised:
        send({verb: words + then})

    assert words.replace("\r\n421", "").replace("421-", "421 ") in str(raised.value)


@pytest.mark.parametrize("words", ["421 4.7.0 who are you", "550 5.7.1 no such name", "504 5.5.2 no full name"])
def test_a_refused_name_is_told_in_the_servers_words_though_it_hangs_up(words):
    """As some do on the HELO that smtplib says then."""
    with pytest.raises(Unavailable, match=words):
        send({"EHLO": words, "HELO": HANG_UP})


def test_a_name_refused_twice_is_told_in_the_last_words():
    with pytest.raises(Unavailable, match="550 no such name"):
        send({"EHLO": "502 what?", "HELO": "550 no such name"})


def test_what_is_said_in_the_middle_of_a_mail_is_in_the_error():
    """The server has closed by then, so that sending fails; its words are still there to be read."""
    with pytest.raises(Unavailable, match=r"421 4[.]3[.]2 shutting down") as raised:
        send({"DATA": CUT_SHORT}, body=("x" * 75 + "\n") * 200_000)

    assert not isinstance(raised.value, DeliveryUnknown)


def test_a_connection_that_is_cut_without_a_word_is_said_to_be_lost():
    with pytest.raises(MailNotTaken, match="connection was lost while the mail was being sent"):
        send({"DATA": f"354 go ahead{AND_HANG_UP}"}, body=("x" * 75 + "\n") * 200_000)


def hello(monkeypatch, host, **options):
    """Return what a mailer on this host says in EHLO."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    return send({}, **options).commands[0]


@pytest.mark.parametrize(
    ("host", "sender", "name"),
    [
        ("worker-1.example.org", "jobs@example.com", "worker-1.example.org"),
        ("3f2c9a1b", "jobs@example.com", "example.com"),
        ("localhost", "Jobs <jobs@mail.example.com>", "mail.example.com"),
        ("laptop.local", "jobs@example.com", "example.com"),
        ("localhost.localdomain", "jobs@example.com", "example.com"),
        ("ip-10-0-0-1.ec2.internal", "jobs@example.com", "example.com"),
        ("my_host.example.org", "jobs@example.com", "example.com"),
        ("10.0.0.1", "jobs@example.com", "example.com"),
        ("3f2c9a1b", "jobs@localhost", "[127.0.0.1]"),
    ],
)
def test_the_name_is_one_that_servers_take(monkeypatch, host, sender, name):
    assert f"ehlo {name}" == hello(monkeypatch, host, sender=sender)


def test_the_name_may_be_set(monkeypatch):
    assert "ehlo out.example.org" == hello(monkeypatch, "host.example.com", ehlo_name="out.example.org")


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "CONTENT"])
@pytest.mark.parametrize("reply", ["550 no", "552 too big", "554 spam"])
def test_a_refusal_for_good_is_final(verb, reply):
    with pytest.raises(Rejected, match=reply):
        send({verb: reply})


REFUSALS = [
    (verb, reply)
    for verb in ("CONNECT", "MAIL", "RCPT", "DATA", "CONTENT")
    for reply in ("421 going down", "450 busy", "451 error here", "452 full")
]


@pytest.mark.parametrize(("verb", "reply"), REFUSALS)
def test_a_refusal_for_now_is_tried_again(verb, reply):
    with pytest.raises(Unavailable) as raised:
        send({verb: reply})

    assert not isinstance(raised.value, DeliveryUnknown)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_an_answer_to_the_mail_that_means_nothing_uses_an_attempt(verb):
    """To the content it leaves the outcome unknown: see the last test."""
    with pytest.raises(MailNotTaken):
        send({verb: "nonsense"})


def test_a_refused_connection_is_tried_again_even_if_the_refusal_is_for_good():
    """It says nothing about the mail."""
    with pytest.raises(Unavailable, match="554 we do not know you"):
        send({"CONNECT": "554 we do not know you"})


@pytest.mark.parametrize("code", [530, 534, 535, 538])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_a_demand_to_log_in_is_the_operators_matter_and_tried_again(verb, code):
    with pytest.raises(Unavailable, match=str(code)):
        send({verb: f"{code} 5.7.0 authentication required"})


def test_a_recipient_refused_for_now_keeps_the_mail_from_everybody():
    """Otherwise the next attempt would send it again to those who have it."""
    with SmtpServer({f"RCPT {BEN}": "450 greylisted"}) as server, pytest.raises(Unavailable, match="450"):
        mailer_for(server).send(a_message(), recipients=(ANN, BEN))

    assert [] == server.mails
    assert "data" not in server.commands


def test_a_recipient_refused_for_good_does_not_keep_the_mail_from_the_others():
    with structlog.testing.capture_logs() as lines:
        server = send({f"RCPT {BEN}": "550 unknown"}, ANN, BEN, "cyd@example.net")

    assert [ANN, "cyd@example.net"] == server.mails[0].recipients
    assert [
        {"event": "mail refused for some recipients", "log_level": "warning", "refused": 1, "recipients": 3}
    ] == lines


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
def test_a_connection_lost_before_the_mail_was_sent_is_tried_again(verb):
    with pytest.raises(Unavailable) as raised:
        send({verb: HANG_UP})

    assert not isinstance(raised.value, DeliveryUnknown)


@pytest.mark.parametrize("misbehaviour", [HANG_UP, SILENCE, TARPIT])
def test_an_answer_lost_after_the_mail_was_sent_leaves_its_fate_unknown(misbehaviour):
    with pytest.raises(DeliveryUnknown):
        send({"CONTENT": misbehaviour}, timeout_seconds=ENOUGH if misbehaviour != HANG_UP else PLENTY)


@pytest.mark.parametrize("misbehaviour", [SILENCE, TARPIT])
@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
def test_no_slow_server_holds_a_thread_longer_than_the_deadline(verb, misbehaviour):
    started = time.monotonic()

    with pytest.raises(Unavailable):
        send({verb: misbehaviour}, timeout_seconds=SHORT)

    assert time.monotonic() - started < SHORT + GRACE


@pytest.mark.parametrize("tls", ["none", "tls"])
def test_no_server_that_stops_reading_holds_a_thread_longer_than_the_deadline(server_tls, client_tls, tls):
    message = a_message(("x" * 75 + "\n") * 200_000)
    started = time.monotonic()

    with SmtpServer({"DATA": DEAF}, server_tls, tls_from_the_start=tls == "tls") as server:
        mailer = mailer_for(server, tls=tls, tls_context=client_tls, timeout_seconds=ENOUGH)
        with pytest.raises(MailNotTaken, match="while sending"):
            mailer.send(message, recipients=(ANN,))

    assert time.monotonic() - started < SHORT + GRACE


def test_no_reply_without_end_fills_the_memory():
    with pytest.raises(Unavailable, match="more than 262144 bytes of replies"):
        send({"EHLO": FLOOD})


def test_a_server_that_never_accepts_is_given_up():
    started = time.monotonic()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        mailer = SmtpMailer(
            host="127.0.0.1", port=listener.getsockname()[1], sender="a@example.com", timeout_seconds=SHORT
        )
        with pytest.raises(Unavailable):
            mailer.send(a_message(), recipients=(ANN,))

    assert time.monotonic() - started < SHORT + GRACE


def test_a_port_with_nobody_behind_it_is_tried_again(free_port):
    mailer = SmtpMailer(host="127.0.0.1", port=free_port(), sender="a@example.com", timeout_seconds=PLENTY)

    with pytest.raises(Unavailable, match="refused"):
        mailer.send(a_message(), recipients=(ANN,))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70])
def test_a_host_without_an_address_is_tried_again(host):
    with SmtpServer() as server, pytest.raises(Unavailable):
        mailer_for(server, host=host).send(a_message(), recipients=(ANN,))


def test_a_sent_mail_does_not_wait_for_a_farewell():
    started = time.monotonic()

    server = send({"QUIT": SILENCE}, timeout_seconds=60.0)

    assert 1 == len(server.mails)
    assert time.monotonic() - started < 1.0 + GRACE


def test_a_login_is_sent_when_there_is_a_username():
    server = send({"EHLO": "250-test\r\n250 AUTH PLAIN", "AUTH": "235 welcome"}, username="joe", password="secret")

    assert "AUTH PLAIN AGpvZQBzZWNyZXQ=" in server.commands
    assert 1 == len(server.mails)


def test_a_wrong_password_is_the_operators_matter_and_tried_again():
    with pytest.raises(Unavailable, match="MAIL_USERNAME and MAIL_PASSWORD: 535 no") as raised:
        send({"EHLO": "250-test\r\n250 AUTH PLAIN", "AUTH": "535 no"}, username="joe", password="secret")

    assert "secret" not in str(raised.value)


def test_a_server_without_login_is_the_operators_matter_and_tried_again():
    with pytest.raises(Unavailable, match="AUTH"):
        send({}, username="joe", password="secret")


def test_starttls_encrypts_before_the_login(server_tls, client_tls):
    with SmtpServer({"EHLO": "250-test\r\n250-STARTTLS\r\n250 AUTH PLAIN", "AUTH": "235 ok"}, server_tls) as server:
        mailer = mailer_for(server, tls="starttls", tls_context=client_tls, username="joe", password="secret")
        mailer.send(a_message(), recipients=(ANN,))

    verbs = [command.split()[0].upper() for command in server.commands]
    assert ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"] == verbs
    assert 1 == len(server.mails)


def test_a_server_that_hangs_up_once_encrypted_is_not_said_to_have_answered(server_tls, client_tls):
    replies = {"EHLO": "250-test\r\n250 STARTTLS", "EHLO AGAIN": HANG_UP}
    with SmtpServer(replies, server_tls) as server, pytest.raises(Unavailable, match="unexpectedly closed"):
        mailer_for(server, tls="starttls", tls_context=client_tls).send(a_message(), recipients=(ANN,))


def test_tls_encrypts_from_the_start(server_tls, client_tls):
    with SmtpServer({}, server_tls, tls_from_the_start=True) as server:
        mailer_for(server, tls="tls", tls_context=client_tls).send(a_message("x\n" * 100_000), recipients=(ANN,))

    assert 1 == len(server.mails)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_is_not_trusted(server_tls, tls):
    replies = {"EHLO": "250-test\r\n250 STARTTLS"}
    with (
        SmtpServer(replies, server_tls, tls_from_the_start=tls == "tls") as server,
        pytest.raises(Unavailable, match="certificate verify failed"),
    ):
        mailer_for(server, tls=tls).send(a_message(), recipients=(ANN,))

    assert [] == server.mails


def test_no_mail_goes_unencrypted_to_a_server_without_starttls():
    with SmtpServer() as server, pytest.raises(Unavailable, match="STARTTLS"):
        mailer_for(server, tls="starttls").send(a_message(), recipients=(ANN,))

    assert [] == server.mails


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_no_server_that_stalls_the_handshake_holds_a_thread_longer_than_the_deadline(tls):
    replies = {"EHLO": "250-test\r\n250 STARTTLS", "CONNECT": SILENCE if tls == "tls" else "220 hello"}
    started = time.monotonic()

    with SmtpServer(replies) as server, pytest.raises(Unavailable):
        mailer_for(server, tls=tls, timeout_seconds=SHORT).send(a_message(), recipients=(ANN,))

    assert time.monotonic() - started < SHORT + GRACE


def test_an_address_beyond_ascii_needs_a_server_that_takes_it():
    message = EmailMessage(policy=policy.SMTPUTF8)
    message.set_content("hello")
    with SmtpServer({"EHLO": "250 test"}) as server, pytest.raises(Rejected, match="SMTPUTF8"):
        mailer_for(server).send(message, recipients=("jürg@example.net",))
    with SmtpServer() as server:
        mailer_for(server).send(message, recipients=("jürg@example.net",))

    assert ["jürg@example.net"] == server.mails[0].recipients


def test_a_reply_is_kept_short_printable_and_without_addresses():
    with pytest.raises(Rejected) as raised:
        send({"RCPT": f"550-5.1.1 <{ANN}>:\x1b[31m unknown\r\n550 " + "x" * 5_000})

    assert str(raised.value).startswith(
        "the mail server refused all 1 recipients, the first with: 550 5.1.1 <<address>"
    )
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("jobs@example.com", "", "jobs@example.com"),
        ("Jobs <jobs@example.com>", "Jobs", "jobs@example.com"),
        ('"Jobs, Inc." <jobs@example.com>', "Jobs, Inc.", "jobs@example.com"),
    ],
)
def test_mail_from_may_have_a_name(text, name, address):
    sender = SmtpMailer(host="localhost", port=25, sender=text).sender

    assert (name, address) == (sender.display_name, sender.addr_spec)


@pytest.mark.parametrize(
    "text", ["", "jobs", "jobs@", "a@b.example, c@d.example", "jürg@b.example", "x\r\n <a@b.example>"]
)
def test_a_wrong_mail_from_is_reported_by_name(text):
    with pytest.raises(SettingsError, match="MAIL_FROM"):
        SmtpMailer(host="localhost", port=25, sender=text)


def test_a_password_that_smtplib_cannot_send_is_reported_by_name():
    with pytest.raises(SettingsError, match="MAIL_PASSWORD") as raised:
        SmtpMailer(host="localhost", port=25, sender="a@example.com", username="joe", password="pässwort")

    assert "pässwort" not in str(raised.value)


def test_the_settings_make_a_mailer():
    with SmtpServer() as server:
        settings = Settings(
            database_url="postgresql://",
            redis_url="redis://",
            mail_host="127.0.0.1",
            mail_port=server.port,
            mail_ehlo_name="out.example.org",
        )
        SmtpMailer.from_settings(settings).send(a_message(), recipients=(ANN,))

    assert "ehlo out.example.org" == server.commands[0]
    assert settings.mail_from == server.mails[0].sender


def test_the_memory_mailer_keeps_what_it_is_given():
    mailer, message = MemoryMailer(), a_message()

    mailer.send(message, recipients=[ANN])

    assert [(message, (ANN,))] == mailer.sent


def test_what_cannot_be_taken_back_is_announced_between_the_recipients_and_the_mail():
    with SmtpServer({}) as server:
        seen = []
        mailer_for(server).send(a_message(), recipients=(ANN,), before_data=lambda: seen.append(len(server.mails)))

    assert [0] == seen
    assert 1 == len(server.mails)


def test_a_mail_that_must_not_be_sent_any_more_is_not():
    with SmtpServer({}) as server, pytest.raises(LeaseLost):
        mailer_for(server).send(a_message(), recipients=(ANN,), before_data=_lose_the_lease)

    assert [] == server.mails


def _lose_the_lease():
    raise LeaseLost("gone")


@pytest.mark.parametrize(
    "replies",
    [
        {"CONNECT": "421 closing"},
        {"CONNECT": "451 not now"},
        {"CONNECT": "554 we do not know you"},
        {"CONNECT": HANG_UP},
        {"CONNECT": "nonsense"},
        {"EHLO": "450 not now"},
        {"EHLO": HANG_UP},
        {"MAIL": "421 closing"},
        {"MAIL": "530 log in"},
        {"RCPT": "421 closing"},
        {"RCPT": HANG_UP},
        {"DATA": HANG_UP},
        {"CONTENT": "421 closing"},
    ],
)
def test_what_every_mail_would_meet_names_the_server(replies):
    with SmtpServer(replies) as server, pytest.raises(Unavailable) as raised:
        mailer_for(server).send(a_message(), recipients=(ANN,))

    assert f"smtp://127.0.0.1:{server.port}" == raised.value.server


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "CONTENT"])
@pytest.mark.parametrize("reply", ["450 4.7.1 greylisted", "451 later", "452 full"])
def test_what_the_server_delays_is_a_matter_of_this_mail_alone(verb, reply):
    with pytest.raises(Unavailable, match=reply) as raised:
        send({verb: reply})

    assert raised.value.server is None


def test_a_server_that_may_not_be_asked_is_not():
    asked = []

    def ask(name):
        asked.append(name)
        raise KnownUnavailable("away", server=name)

    with SmtpServer({}) as server, pytest.raises(KnownUnavailable):
        mailer_for(server).asking(ask).send(a_message(), recipients=(ANN,))

    assert [f"smtp://127.0.0.1:{server.port}"] == asked
    assert [] == server.commands


def test_a_process_without_descriptors_says_nothing_against_the_server(monkeypatch):
    def none_left(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)

    with pytest.raises(OSError, match="Too many open files"):
        SmtpMailer(host="127.0.0.1", port=25, sender="a@example.com").send(a_message(), recipients=(ANN,))


@pytest.mark.parametrize("answer", ["garbled", "252 perhaps", "250" + "x" * 9_000])
def test_an_answer_to_the_mail_that_is_none_leaves_the_outcome_unknown(answer):
    with SmtpServer({"CONTENT": answer}) as server, pytest.raises(OutcomeUnknown):
        mailer_for(server).send(a_message(), recipients=(ANN,))
