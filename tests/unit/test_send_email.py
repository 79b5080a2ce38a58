"""EMAIL_SEND: what it takes, what it refuses where, and the mail it makes."""

import contextlib
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage
from uuid import UUID

import mail_reader
import pytest

from actors._attachments import MAX_ATTACHED_BYTES
from actors.generate_csv import generate_csv
from actors.send_email import Mail, compose, refuse_added_headers, send_email
from jobs_service.errors import InvalidRequest, Rejected
from jobs_service.jobs.job_types import JobContext, registry
from jobs_service.mail.mailer import MemoryMailer
from jobs_service.outputs.local import LocalOutputs

JOB_ID = UUID("01890000-0000-7000-8000-000000000001")
SENDER = Address("Jobs", "jobs", "mail.example.com")
THE_BRIEFS = {
    "to": "test@example.com",
    "subject": "Job Notification",
    "body": "Your job has been processed successfully.",
}


def parse(**changes: object) -> Mail:
    return registry.get("EMAIL_SEND").parse(THE_BRIEFS | changes)


def received(mail: Mail) -> EmailMessage:
    """Return the mail as a recipient's program reads it."""
    return message_from_bytes(compose(mail, JOB_ID, SENDER).as_bytes(), policy=policy.default)


@pytest.fixture
def attempt(tmp_path):
    return JobContext(job_id=JOB_ID, number=1, outputs=LocalOutputs(tmp_path), mailer=MemoryMailer())


def test_the_mail_of_the_brief_is_sent_and_its_message_id_returned(attempt):
    result = send_email(parse(), attempt)

    ((message, recipients),) = attempt.mailer.sent
    assert f"<{JOB_ID}@example.com>" == result == message["Message-ID"]
    assert ("test@example.com",) == recipients
    assert "Your job has been processed successfully.\n" == message.get_content().replace("\r\n", "\n")


@pytest.mark.parametrize("name", ["EMAIL_SEND", "email-send"])
def test_both_spellings_are_the_type(name):
    assert send_email is registry.get(name).function


def test_every_attempt_has_the_same_message_id():
    mail = parse()

    assert compose(mail, JOB_ID, SENDER)["Message-ID"] == compose(mail, JOB_ID, SENDER)["Message-ID"]


def test_the_headers():
    mail = received(parse(to=["a@b.example", "c@d.example"], cc="e@f.example", reply_to="g@h.example"))

    assert [
        "Date", "Message-ID", "X-Job-ID", "Auto-Submitted", "From", "To", "Cc", "Reply-To", "Subject",
        "Content-Type", "Content-Transfer-Encoding", "MIME-Version",
    ] == mail.keys()  # fmt: skip
    assert f"<{JOB_ID}@mail.example.com>" == mail["Message-ID"]
    assert str(JOB_ID) == mail["X-Job-ID"]
    assert "auto-generated" == mail["Auto-Submitted"]
    assert "Jobs <jobs@mail.example.com>" == mail["From"]
    assert "a@b.example, c@d.example" == mail["To"]
    assert "e@f.example" == mail["Cc"]
    assert "g@h.example" == mail["Reply-To"]
    assert "Job Notification" == mail["Subject"]


@pytest.mark.parametrize(
    "optional", ["html", "cc", "bcc", "reply_to", "list_unsubscribe", "list_unsubscribe_post", "headers"]
)
def test_null_is_as_good_as_nothing(optional):
    mail = parse(**{optional: None})

    assert ("test@example.com",) == mail.recipients
    assert received(parse()).keys() == received(mail).keys()


def test_a_bcc_recipient_gets_the_mail_and_is_not_named_in_it(attempt):
    send_email(parse(bcc=["secret@example.net"]), attempt)

    ((message, recipients),) = attempt.mailer.sent
    assert "secret@example.net" in recipients
    assert b"secret" not in message.as_bytes()


def test_nobody_gets_the_mail_twice():
    mail = parse(to=["a@b.example", "A@b.example"], cc="a@B.EXAMPLE", bcc=["c@d.example", "a@b.example"])

    assert ("a@b.example", "A@b.example", "c@d.example") == mail.recipients


def test_html_comes_with_the_text_as_the_richer_choice():
    mail = received(parse(body="plain", html="<p>rich</p>"))

    assert "multipart/alternative" == mail.get_content_type()
    assert ["text/plain", "text/html"] == [part.get_content_type() for part in mail.iter_parts()]
    assert "<p>rich</p>\r\n" == mail.get_body(("html",)).get_content()


def test_text_in_any_language_arrives():
    mail = received(parse(subject="Grüße 😀 " * 40, body="Zoë\n" + "ü" * 5_000))

    assert "Grüße 😀 " * 40 == mail["Subject"]
    assert "Zoë\r\n" + "ü" * 5_000 + "\r\n" == mail.get_content()


def test_every_server_can_take_the_mail():
    """No line beyond 998 bytes, no byte beyond ASCII, no bare CR or LF."""
    content = compose(
        parse(subject="Grüße " * 100, body="ü" * 5_000 + "\rx\ny\r\nz" + "q" * 5_000), JOB_ID, SENDER
    ).as_bytes()

    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert not set(b"\r\n") & set(content.replace(b"\r\n", b""))


@pytest.mark.parametrize(("field", "header"), [("to", "To"), ("cc", "Cc"), ("reply_to", "Reply-To")])
def test_a_local_part_beyond_ascii_makes_the_mail_utf8(field, header):
    message = compose(parse(**{field: "jürg@example.net"}), JOB_ID, SENDER)

    assert message.policy.utf8
    assert f"{header}: jürg@example.net\r\n".encode() in message.as_bytes()


NOT_ONE_ADDRESS = [
    "",
    "a",
    "a@",
    "@b.example",
    "a@b.example, c@d.example",
    "a@b.example,c@d.example",
    "a@b.example;c@d.example",
    "a@b.example c@d.example",
    "a@b@c.example",
    "Ann <a@b.example>",
    "<a@b.example>",
    "a@b.example (comment)",
    '"a b"@c.example',
    "group:a@b.example;",
    "a@[127.0.0.1]",
    " a@b.example",
    "a@b.example ",
    "a@b.example\n",
    "a@b.example\r\nBcc: c@d.example",
    "a\n@b.example",
    "a\0@b.example",
    "a\u2028@b.example",
    "a\u200b@b.example",
    "a\u00a0b@c.example",
    "a..b@c.example",
    ".a@c.example",
    "a.@c.example",
    "a@.example",
    "a@b..example",
    "a@-b.example",
    "a@b-.example",
    "a@b_c.example",
    "a@" + "b" * 64 + ".example",
    "a@bücher.example",
    "=?utf-8?q?x?=@b.example",
    "a" * 65 + "@b.example",
    "ü" * 33 + "@b.example",
    "a@" + "b." * 126 + "b",
]


@pytest.mark.parametrize("address", NOT_ONE_ADDRESS)
@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to"])
def test_what_is_not_exactly_one_address_is_refused(field, address):
    with pytest.raises(InvalidRequest) as raised:
        parse(**{field: address})

    assert f"/payload/{field}" == raised.value.pointer


@pytest.mark.parametrize("address", ["a@b.example\ud800", "\ud800@b.example"])
@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to"])
def test_a_lone_surrogate_which_no_json_can_hold_is_refused(field, address):
    with pytest.raises(InvalidRequest) as raised:
        Mail(**THE_BRIEFS | {field: address})

    assert f"/payload/{field}" == raised.value.pointer


@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_the_pointer_names_the_address_in_a_list(field):
    with pytest.raises(InvalidRequest) as raised:
        parse(**{field: ["a@b.example", "a@b.example, c@d.example"]})

    assert f"/payload/{field}/1" == raised.value.pointer
    assert "b.example" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "a@b",
        "a.b+c@d-e.example",
        "!#$%&'*+/?=^_`{|}~-@b.example",
        "a@xn--bcher-kva.example",
        "jürg@example.net",
        "用户@example.net",
        "a" * 64 + "@b.example",
        "a@" + "b." * 125 + "bc",
    ],
)
def test_an_address_is_taken_and_reaches_the_header_as_it_is(address):
    mail = parse(to=address)

    assert (address,) == mail.recipients
    assert address in compose(mail, JOB_ID, SENDER).as_bytes().decode()


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"subject": "a\nBcc: x@y.example"}, "/payload/subject"),
        ({"subject": "a\rb"}, "/payload/subject"),
        ({"subject": "a\0b"}, "/payload/subject"),
        ({"subject": "a\u2028b"}, "/payload/subject"),
        ({"subject": "a\x85b"}, "/payload/subject"),
        ({"subject": "=?utf-8?q?hi=0ABcc=3A_evil=40x.example?="}, "/payload/subject"),
        ({"subject": "x =?a?= y"}, "/payload/subject"),
        ({"subject": "x" * 999}, "/payload/subject"),
        ({"subject": None}, "/payload/subject"),
        ({"body": 5}, "/payload/body"),
        ({"body": "x" * 1_048_577}, "/payload/body"),
        ({"html": ["x"]}, "/payload/html"),
        ({"to": []}, "/payload/to"),
        ({"to": None}, "/payload/to"),
        ({"to": [5]}, "/payload/to/0"),
        ({"to": ["a@b.example"] * 51}, "/payload/to"),
        ({"cc": ["a@b.example"] * 51}, "/payload/cc"),
        ({"reply_to": ["a@b.example"]}, "/payload/reply_to"),
        ({"from": "a@b.example"}, "/payload/from"),
        ({"headers": {"Bcc": "a@b.example"}}, "/payload/headers"),
        ({"headers": {"Subject": "again"}}, "/payload/headers"),
        ({"headers": {"Sender": "a@b.example"}}, "/payload/headers"),
        ({"headers": {"X-": "a"}}, "/payload/headers"),
        ({"headers": {"X-A B": "a"}}, "/payload/headers"),
        ({"headers": {"X-A:": "a"}}, "/payload/headers"),
        ({"headers": {"X-A\r\nBcc": "a@b.example"}}, "/payload/headers"),
        ({"headers": {"X-Ä": "a"}}, "/payload/headers"),
        ({"headers": {"X-" + "a" * 39: "a"}}, "/payload/headers"),
        ({"headers": {"X-A": "a", "x-a": "b"}}, "/payload/headers"),
        ({"headers": {f"X-{number}": "a" for number in range(21)}}, "/payload/headers"),
        ({"headers": {"X-A": "a\r\nBcc: x@y.example"}}, "/payload/headers/X-A"),
        ({"headers": {"X-A": "a\u2028b"}}, "/payload/headers/X-A"),
        ({"headers": {"X-A": "=?utf-8?q?hi=0ABcc=3A_evil=40x.example?="}}, "/payload/headers/X-A"),
        ({"headers": {"X-Job-Id": "a"}}, "/payload/headers/X-Job-Id"),
        ({"headers": {"x-smtpapi": "{}"}}, "/payload/headers/x-smtpapi"),
        ({"headers": {"X-MC-BccAddress": "a@b.example"}}, "/payload/headers/X-MC-BccAddress"),
        ({"headers": ["X-A: a"]}, "/payload/headers"),
        ({"headers": {"X-A": 5}}, "/payload/headers/..."),
        ({"headers": {"X-A": "a" * 999}}, "/payload/headers/..."),
        ({"list_unsubscribe": "http://a.example/u"}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": "javascript:alert(1)"}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": "https://"}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": "https://a.example/u>, <mailto:x@y.example"}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": "https://a.example/\r\nBcc: x@y.example"}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": "https://a.example/u\n"}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": "https://a.example/ü"}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": ["https://a.example/", "ftp://a.example/"]}, "/payload/list_unsubscribe/1"),
        ({"list_unsubscribe": ["https://a.example/"] * 5}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe": "https://a.example/" + "a" * 900}, "/payload/list_unsubscribe"),
        ({"list_unsubscribe_post": True}, "/payload/list_unsubscribe_post"),
        (
            {"list_unsubscribe": "mailto:a@b.example", "list_unsubscribe_post": True},
            "/payload/list_unsubscribe_post",
        ),
    ],
)
def test_anything_else_wrong_is_refused_and_pointed_at(changes, pointer):
    with pytest.raises(InvalidRequest) as raised:
        parse(**changes)

    assert pointer == raised.value.pointer


def test_a_mail_may_say_how_to_unsubscribe():
    page = "https://example.com/u?list=1,2&who=%40a"
    mail = parse(list_unsubscribe=[page, "mailto:off@example.com?subject=off"], list_unsubscribe_post=True)

    content = compose(mail, JOB_ID, SENDER).as_bytes()

    both = f"<{page}>, <mailto:off@example.com?subject=off>"
    assert both == mail_reader.text(content, "List-Unsubscribe")
    assert "List-Unsubscribe=One-Click" == mail_reader.text(content, "List-Unsubscribe-Post")


def test_a_long_address_to_unsubscribe_is_never_broken():
    page = "https://example.com/" + "a" * 880

    content = compose(parse(list_unsubscribe=page), JOB_ID, SENDER).as_bytes()

    assert [f"<{page}>"] == mail_reader.lines(content, "List-Unsubscribe")
    assert "List-Unsubscribe-Post" not in message_from_bytes(content)


def attachments_of(message: EmailMessage) -> list[tuple[str | None, str, bytes]]:
    """Return name, type and content of each attachment, as a recipient's program reads them."""
    read = message_from_bytes(message.as_bytes(), policy=policy.default)
    return [
        (part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
        for part in read.iter_attachments()
    ]


def sent(attempt: JobContext) -> EmailMessage:
    ((message, _),) = attempt.mailer.sent
    return message


def test_an_attachment_comes_with_the_payload(attempt):
    given = {"content": "JVBERi0=", "filename": "Rechnung für März.pdf"}

    send_email(parse(html="<p>rich</p>", attachments=[given]), attempt)

    assert [("Rechnung für März.pdf", "application/pdf", b"%PDF-")] == attachments_of(sent(attempt))
    read = message_from_bytes(sent(attempt).as_bytes(), policy=policy.default)
    assert "multipart/mixed" == read.get_content_type()
    assert "<p>rich</p>\r\n" == read.get_body(("html",)).get_content()


def test_an_attachment_may_be_what_an_earlier_job_wrote(attempt):
    reference = generate_csv([{"name": "Zoë"}], attempt)

    send_email(
        parse(attachments=[{"output": reference}, {"output": f"{JOB_ID}.csv", "filename": "names.csv"}]), attempt
    )

    content = "name\nZoë\n".encode()
    assert [(f"{JOB_ID}.csv", "text/csv", content), ("names.csv", "text/csv", content)] == attachments_of(sent(attempt))


@pytest.mark.parametrize(
    ("changes", "media_type"),
    [
        ({"filename": "a.csv"}, "text/csv"),
        ({"filename": "a.CSV"}, "text/csv"),
        ({"filename": "a.csv.gz"}, "application/octet-stream"),
        ({"filename": "a"}, "application/octet-stream"),
        ({"filename": "a.unheard-of"}, "application/octet-stream"),
        ({"filename": "a.csv", "media_type": "application/vnd.ms-excel"}, "application/vnd.ms-excel"),
    ],
)
def test_the_type_of_an_attachment_is_given_or_that_of_its_name(attempt, changes, media_type):
    send_email(parse(attachments=[{"content": "eA=="} | changes]), attempt)

    assert [(changes["filename"], media_type, b"x")] == attachments_of(sent(attempt))


def test_a_mail_whose_file_is_not_there_is_not_sent(attempt):
    with pytest.raises(FileNotFoundError, match=r"output/later[.]csv does not exist"):
        send_email(parse(attachments=[{"output": "output/later.csv"}]), attempt)

    assert [] == attempt.mailer.sent


def test_files_that_are_too_large_together_are_refused_for_good(attempt):
    attempt.outputs.write("a.bin", bytes(MAX_ATTACHED_BYTES))

    send_email(parse(attachments=[{"output": "a.bin"}]), attempt)
    with pytest.raises(Rejected, match=r"output/a[.]bin has 10485760 bytes"):
        send_email(parse(attachments=[{"content": "eA==", "filename": "x"}, {"output": "a.bin"}]), attempt)

    assert 1 == len(attempt.mailer.sent)


def test_two_attempts_send_the_same_attachments(attempt):
    mail = registry.get("EMAIL_SEND").decode(
        '{"to":"a@b.example","subject":"s","body":"b","attachments":[{"content":"AAECAw==","filename":"x.bin"}]}'
    )

    send_email(mail, attempt)
    send_email(mail, attempt)

    first, second = (attachments_of(message) for message, _ in attempt.mailer.sent)
    assert [("x.bin", "application/octet-stream", b"\0\1\2\3")] == first == second


CONTENT = {"content": "eA==", "filename": "a.txt"}


@pytest.mark.parametrize(
    ("attachment", "below"),
    [
        ({}, ""),
        ({"filename": "a.txt"}, ""),
        (CONTENT | {"output": "a.csv"}, ""),
        ({"content": "eA=="}, "/filename"),
        ({"content": "eA", "filename": "a"}, "/content"),
        ({"content": "e A =", "filename": "a"}, "/content"),
        ({"content": 5, "filename": "a"}, "/content"),
        ({"output": "../a.csv"}, "/output"),
        ({"output": "output/../a.csv"}, "/output"),
        ({"output": "/etc/passwd"}, "/output"),
        ({"output": ".hidden"}, "/output"),
        ({"output": "a.csv\n"}, "/output"),
        ({"output": "output/output/a.csv"}, "/output"),
        (CONTENT | {"filename": ""}, "/filename"),
        (CONTENT | {"filename": "a/b"}, "/filename"),
        (CONTENT | {"filename": "a\\b"}, "/filename"),
        (CONTENT | {"filename": "C:a"}, "/filename"),
        (CONTENT | {"filename": '"a"'}, "/filename"),
        (CONTENT | {"filename": ".."}, "/filename"),
        (CONTENT | {"filename": "a."}, "/filename"),
        (CONTENT | {"filename": " a"}, "/filename"),
        (CONTENT | {"filename": "a\r\nBcc: b@c.example"}, "/filename"),
        (CONTENT | {"filename": "fdp.\u202eexe"}, "/filename"),
        (CONTENT | {"filename": "=?utf-8?q?a"}, "/filename"),
        (CONTENT | {"filename": "a" * 101}, "/filename"),
        (CONTENT | {"media_type": "text"}, "/media_type"),
        (CONTENT | {"media_type": "text/csv; charset=utf-8"}, "/media_type"),
        (CONTENT | {"media_type": "text/csv\r\nBcc: b"}, "/media_type"),
        (CONTENT | {"media_type": "text/csv\n"}, "/media_type"),
        (CONTENT | {"media_type": "Multipart/mixed"}, "/media_type"),
        (CONTENT | {"media_type": "message/rfc822"}, "/media_type"),
        (CONTENT | {"inline": True}, "/inline"),
    ],
)
def test_a_wrong_attachment_is_refused_and_pointed_at(attachment, below):
    with pytest.raises(InvalidRequest) as raised:
        parse(attachments=[CONTENT, attachment])

    assert f"/payload/attachments/1{below}" == raised.value.pointer


def test_more_attachments_than_anybody_opens_are_refused():
    with pytest.raises(InvalidRequest) as raised:
        parse(attachments=[CONTENT] * 21)

    assert "/payload/attachments" == raised.value.pointer


def test_headers_of_the_senders_own_arrive():
    wanted = {"X-Campaign": "Grüße  im  Mai 😀", "x-auto-response-suppress": "All", "X-Empty": ""}

    content = compose(parse(headers=wanted), JOB_ID, SENDER).as_bytes()

    assert wanted == {name: mail_reader.text(content, name) for name in wanted}


def test_a_subject_may_have_question_marks():
    assert "2+2=? =? why?" == received(parse(subject="2+2=? =? why?"))["Subject"]


def test_more_recipients_than_every_server_takes_are_refused():
    some = [f"a{number}@b.example" for number in range(50)]
    more = [f"c{number}@b.example" for number in range(50)]

    assert 100 == len(parse(to=some, cc=more).recipients)
    with pytest.raises(InvalidRequest, match="more than 100"):
        parse(to=some, cc=more, bcc="z@b.example")


def test_a_stored_payload_is_checked_again():
    with pytest.raises(InvalidRequest) as raised:
        registry.get("EMAIL_SEND").decode('{"to":["a@b.example","x"],"subject":"","body":""}')

    assert "/payload/to/1" == raised.value.pointer


def test_a_mail_whose_headers_do_not_read_back_is_never_sent():
    """As Python 3.11.7 writes an encoded subject with a line break in it: as one header more (CVE-2024-6923)."""

    class Vulnerable(EmailMessage):
        def as_bytes(self, *_: object, **__: object) -> bytes:
            return b"Subject: hi\r\nBcc: evil@x.example\r\n\r\nhello\r\n"

    message = Vulnerable()
    message["Subject"] = "hi"

    with pytest.raises(Rejected):
        refuse_added_headers(message)


def test_an_encoded_line_break_never_becomes_a_header():
    """Whether this Python writes it as two headers or not."""
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = "=?utf-8?q?hi=0ABcc=3A_evil=40x.example?="
    message.set_content("hello")

    with contextlib.suppress(Rejected):
        refuse_added_headers(message)
        assert "Bcc" not in message_from_bytes(message.as_bytes())
