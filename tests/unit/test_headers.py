"""The headers of a mail as they are written: read back by readers that share no code with their writer."""

from email import message_from_bytes, policy
from email.header import decode_header
from email.headerregistry import Address
from email.message import EmailMessage

import mail_reader
import pytest
from hypothesis import example, given, strategies as st

from jobs_service.mail import headers

SCRIPTS = [
    "Grüße aus Köln",
    "Ваш заказ принят",
    "ご注文ありがとうございます",
    "您的订单已确认",
    "شكرا لطلبك",
    "ההזמנה שלך התקבלה",
    "आपका आदेश",
    "ยืนยันคำสั่งซื้อ",
    "주문이 확인되었습니다",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301",
    "Order confirmed",
]
#: What the standard library has altered, in one version or another.
DECORATIONS = [
    "",
    "a=b&c==d",
    "  two  and   three   blanks",
    "\"quoted\" 'text'",
    "=",
    "?=",
    "= ?",
    "_",
    "(a) <b> [c]",
    "😀",
]
SUBJECTS = [
    f"{script} {decoration} {script * repeated}".strip()
    for script in SCRIPTS
    for decoration in DECORATIONS
    for repeated in (1, 8)
]
CURIOUS = [
    "",
    " ",
    "   ",
    " a",
    "a ",
    "  a  b  ",
    "a" * 66,
    "a" * 67,
    "a" * 68,
    "a" * 998,
    "a " * 499,
    "é" * 998,
    "a\tb",
]


def written(*some: headers.Header) -> bytes:
    message = EmailMessage(policy=policy.SMTP)
    for header in some:
        message[header.name] = header
    message.set_content("hello")
    return message.as_bytes()


def by_the_older_reader(content: bytes, name: str) -> str:
    """Read with the older half of the standard library, which unfolds and decodes by other code."""
    unfolded = message_from_bytes(content)[name].replace("\r\n", "")
    parts = decode_header(unfolded)
    return "".join(part if isinstance(part, str) else part.decode(charset or "ascii") for part, charset in parts)


@pytest.mark.parametrize("subject", [*SUBJECTS, *CURIOUS])
def test_a_subject_arrives_as_it_was_sent(subject):
    content = written(headers.text("Subject", subject))

    assert subject == mail_reader.text(content, "Subject")
    if subject.strip():  # it takes blanks alone for nothing
        assert subject == by_the_older_reader(content, "Subject")


@given(st.text(st.characters(exclude_categories=["Cc", "Zl", "Zp", "Cs"])) | st.text('=?_ utf-8b"a😀é', max_size=200))
@example("=?utf-8?b?YQ==?=")
@example("a =? b ?= c")
@example("\u00a0" * 90)
def test_any_text_arrives_as_it_was_sent(value):
    for name in ("Subject", "X-" + "a" * 38):
        assert value == mail_reader.text(written(headers.text(name, value)), name)


@given(st.text())
@example("a\r\nBcc: b@c.example")
@example("a\r\n\r\nbody")
@example("\x85\u2028\v\f")
def test_no_text_adds_a_header(value):
    """Whoever calls checks the text; here nothing may depend on it."""
    value = value.encode("utf-8", "replace").decode()

    content = written(headers.text("Subject", value))

    assert ["Subject", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"] == message_from_bytes(
        content
    ).keys()
    assert value == mail_reader.text(content, "Subject")


def test_plain_text_stays_readable():
    content = written(headers.text("Subject", "word " * 30 + "end"))

    first, *others = mail_reader.lines(content, "Subject")
    assert first.startswith("word word")
    assert others
    assert all(len(line) <= 76 for line in (f"Subject: {first}", *others))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (Address("", "jobs", "example.com"), "jobs@example.com"),
        (Address("Jobs", "jobs", "example.com"), "Jobs <jobs@example.com>"),
        (Address("The Jobs", "jobs", "example.com"), "The Jobs <jobs@example.com>"),
        (Address("Jobs, Inc.", "jobs", "example.com"), '"Jobs, Inc." <jobs@example.com>'),
        (Address('a "b" \\c', "jobs", "example.com"), r'"a \"b\" \\c" <jobs@example.com>'),
        (Address("a  b", "jobs", "example.com"), '"a  b" <jobs@example.com>'),
    ],
)
def test_the_senders_name_is_quoted_where_it_must_be(address, expected):
    content = written(headers.sender(address))

    assert [expected] == mail_reader.lines(content, "From")
    (read,) = message_from_bytes(content, policy=policy.default)["From"].addresses
    assert (address.display_name, address.addr_spec) == (read.display_name, read.addr_spec)


@pytest.mark.parametrize(
    "name", ["Jöbs", 'Jöbs, "Inc."', "東京" * 60, "x" * 200, "a =?b", "Jobs 😀 (team)", "a, " * 40]
)
def test_the_senders_name_arrives_in_any_script(name):
    content = written(headers.sender(Address(name, "jobs", "example.com")))

    assert f"{name} <jobs@example.com>" == mail_reader.text(content, "From")
    (read,) = message_from_bytes(content, policy=policy.default)["From"].addresses
    assert "jobs@example.com" == read.addr_spec


@given(st.lists(st.from_regex(r"[a-z=?!]{1,64}@[a-z]{1,60}\.example", fullmatch=True), min_size=1, max_size=50))
def test_addresses_are_never_broken_or_encoded(values):
    content = written(headers.tokens("To", values))

    lines = mail_reader.lines(content, "To")
    assert values == "".join(lines).split(", ")
    assert all(len(line) <= 76 or line.count("@") == 1 for line in lines)
