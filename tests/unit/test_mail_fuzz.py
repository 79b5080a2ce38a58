"""EMAIL_SEND with payloads nobody would think of: what is accepted becomes exactly the mail that was meant."""

import base64
from collections.abc import Iterable
from email import message_from_bytes, policy
from email.headerregistry import Address
from uuid import UUID

import mail_reader
from hypothesis import example, given, strategies as st

from actors._attachments import attach
from actors.send_email import Mail, compose, refuse_added_headers
from jobs_service.errors import InvalidRequest
from jobs_service.jobs.job_types import registry

JOB_ID = UUID("01890000-0000-7000-8000-000000000001")
SENDERS = st.sampled_from(
    [
        Address("Jobs", "jobs", "example.com"),
        Address('Jöbs, "Inc."', "jobs", "a-rather-long-name.of-a-department.of-a-company.example.com"),
    ]
)

#: Any text that a request body may hold: the parser refuses NUL, UTF-8 has no lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
#: Text made of what matters in headers, which `TEXT` would rarely put together.
NASTY = st.lists(
    st.sampled_from(
        ["=?", "?=", "utf-8", "?q?", "?b?", "=0A", "=0D", "Bcc:", "\r", "\n", "\t", " ", ":", ",", ";", "<", ">", "@",
         '"', "(", ")", "\\", "a", "b.example", "é", "\u2028", "\x85", "\x0b", "=", "?", "."]
    ),
    max_size=12,
).map("".join)  # fmt: skip
STRINGS = TEXT | NASTY

ATOMS = st.text(st.sampled_from("ab1!#$%&'*+/=?^_`{|}~-é用"), min_size=1, max_size=20).filter(
    lambda atom: "=?" not in atom
)
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", fullmatch=True)
LIKELY = st.builds(
    lambda local, domain: f"{'.'.join(local)}@{'.'.join(domain)}",
    st.lists(ATOMS, min_size=1, max_size=3),
    st.lists(LABELS, min_size=1, max_size=6),
)
ADDRESSES = LIKELY | st.builds("{}@{}".format, STRINGS, STRINGS) | STRINGS
MANY = LIKELY | st.lists(LIKELY, min_size=1, max_size=6)


def accepted(payload: dict[str, object]) -> Mail | None:
    try:
        return registry.get("EMAIL_SEND").parse(payload)
    except InvalidRequest as refusal:
        return refused(refusal)


def refused(refusal: InvalidRequest) -> None:
    assert refusal.pointer.startswith("/payload")
    assert str(refusal).isprintable()


def intended_headers(mail: Mail) -> list[str]:
    optional = [name for name, value in (("cc", mail.cc), ("reply-to", mail.reply_to)) if value]
    optional += ["list-unsubscribe"] * bool(mail.list_unsubscribe) + [name.lower() for name in mail.headers or ()]
    body = ["content-type", "mime-version"] + (["content-transfer-encoding"] if mail.html is None else [])
    return sorted(["message-id", "x-job-id", "auto-submitted", "date", "from", "to", "subject", *optional, *body])


def listed(value: object) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def addresses_in(content: bytes, header: str) -> list[str]:
    """Return the addresses of a header. The parser hands bytes beyond ASCII on as surrogates."""
    found = message_from_bytes(content, policy=policy.SMTPUTF8)[header]
    addresses = [f"{address.username}@{address.domain}" for address in found.addresses] if found else []
    return [address.encode("utf-8", "surrogateescape").decode() for address in addresses]


def assert_as_intended(mail: Mail, sender: Address) -> None:
    message = compose(mail, JOB_ID, sender)
    refuse_added_headers(message)
    content = message.as_bytes()
    received = message_from_bytes(content)
    assert intended_headers(mail) == sorted(name.lower() for name, _ in received.items())
    assert f"<{JOB_ID}@{sender.domain}>" == received["Message-ID"].strip()
    assert listed(mail.to) == addresses_in(content, "To")
    assert listed(mail.cc) == addresses_in(content, "Cc")
    assert listed(mail.reply_to) == addresses_in(content, "Reply-To")
    assert [sender.addr_spec] == addresses_in(content, "From")
    assert mail.subject == mail_reader.text(content, "Subject")
    for name, value in (mail.headers or {}).items():
        assert value == mail_reader.text(content, name)
    assert not received.defects
    assert not set(b"\r\n") & set(content.replace(b"\r\n", b""))


@given(SENDERS, LIKELY, STRINGS, STRINGS, st.none() | STRINGS)
@example(Address("", "a", "b.example"), "a@b.example", "=?utf-8?q?hi=0ABcc=3A_evil=40x.example?=", "", None)
@example(Address("", "a", "b.example"), "a@b.example", "x =? " * 40 + "é", "", None)
def test_no_text_adds_a_header(sender, to, subject, body, html):
    if mail := accepted({"to": to, "subject": subject, "body": body, "html": html}):
        assert_as_intended(mail, sender)


@given(SENDERS, MANY, MANY, MANY, st.none() | LIKELY)
@example(Address("", "a", "b.example"), "a@b.example", [], [], "é@b.example")
def test_every_address_arrives_as_one_recipient(sender, to, cc, bcc, reply_to):
    if mail := accepted({"to": to, "subject": "s", "body": "b", "cc": cc, "bcc": bcc, "reply_to": reply_to}):
        assert_as_intended(mail, sender)
        assert set(mail.recipients) <= {*listed(to), *listed(cc), *listed(bcc)}
        assert mailboxes(mail.recipients) == mailboxes([*listed(to), *listed(cc), *listed(bcc)])
        assert len(mail.recipients) == len(mailboxes(mail.recipients))


def mailboxes(addresses: Iterable[str]) -> set[tuple[str, str]]:
    return {(address.split("@")[0], address.split("@")[1].lower()) for address in addresses}


NAMES = st.builds("X-{}".format, st.text(st.sampled_from("ab1-: \r\né"), max_size=6)) | NASTY


@given(SENDERS, st.dictionaries(NAMES, STRINGS, max_size=4), STRINGS | st.builds("https://a{}".format, STRINGS))
@example(Address("", "a", "b.example"), {"X-A": "a\r\nBcc: c@d.example"}, "https://a")
@example(Address("", "a", "b.example"), {"X-A": "a" * 998, "X-B": " = " * 300}, "https://a")
def test_no_wished_header_adds_another(sender, headers, uri):
    wishes = {"headers": headers, "list_unsubscribe": uri}
    if mail := accepted({"to": "a@b.example", "subject": "s", "body": "b", **wishes}):
        assert_as_intended(mail, sender)


FILENAMES = TEXT | NASTY | st.text("a b;'%()=é😀.,東_", max_size=100)


@given(FILENAMES, st.binary(max_size=200), st.sampled_from(["", "text/csv", "application/pdf", "a/b\r\nBcc: c@d.e"]))
@example("ein sehr langer Name für einen Bericht, der umgebrochen werden muss; Teil=2.csv", b"x", "")
@example("a" * 100, b"\r\n.\r\n", "text/csv")
@example("東" * 100, b"", "")
def test_an_attachment_arrives_as_it_was_sent_or_is_refused(filename, content, media_type):
    attachment = {"filename": filename, "content": base64.b64encode(content).decode(), "media_type": media_type or None}
    if mail := accepted({"to": "a@b.example", "subject": "s", "body": "b", "attachments": [attachment]}):
        message = compose(mail, JOB_ID, Address("", "a", "b.example"))
        attach(message, mail.attachments, None)
        refuse_added_headers(message)
        raw = message.as_bytes()
        assert raw.isascii()
        for rules in (policy.compat32, policy.default):
            _, body, part = message_from_bytes(raw, policy=rules).walk()
            assert (filename, content) == (part.get_filename(), part.get_payload(decode=True))
            assert "attachment" == part.get_content_disposition()
            assert not body.get_filename()


@given(ADDRESSES)
@example("a@b.example, c@d.example")
@example("a@b.example\r\nBcc: c@d.example")
def test_a_text_is_one_address_or_refused(text):
    if mail := accepted({"to": text, "subject": "s", "body": "b"}):
        assert (text,) == mail.recipients
        assert_as_intended(mail, Address("", "a", "b.example"))


FIELDS = st.sampled_from(
    ["to", "subject", "body", "html", "cc", "bcc", "reply_to", "headers", "list_unsubscribe", "attachments", "x"]
)


@given(st.dictionaries(FIELDS, STRINGS | st.none() | st.integers() | st.lists(STRINGS)))
def test_whatever_is_refused_is_refused_with_a_pointer(payload):
    accepted(payload)
