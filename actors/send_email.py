"""EMAIL_SEND: sends one mail over SMTP, with the same Message-ID at every attempt."""

import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from actors import _attachments
from actors._attachments import Attachments
from jobs_service.errors import InvalidRequest, Rejected
from jobs_service.jobs.job_types import JobContext, job
from jobs_service.mail import headers
from jobs_service.mail.addresses import MAX_ADDRESS_BYTES, problem_with
from jobs_service.mail.headers import Header

MAX_LISTED = 50
#: To, Cc and Bcc together: the number that every server must accept (RFC 5321, section 4.5.3.1.8).
MAX_RECIPIENTS = 100
MAX_SUBJECT_CHARACTERS = 998
MAX_TEXT_CHARACTERS = 1_048_576
MAX_HEADERS = 20
MAX_HEADER_CHARACTERS = 998
MAX_UNSUBSCRIBE_URIS = 4

Recipient = Annotated[str, Meta(max_length=MAX_ADDRESS_BYTES)]
Recipients = Recipient | Annotated[tuple[Recipient, ...], Meta(max_length=MAX_LISTED)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]

#: Without 8-bit bodies, which a server may refuse.
_POLICY = policy.SMTP.clone(cte_type="7bit")
#: Control characters, line and paragraph separators, lone surrogates.
_LINE_BREAKERS = frozenset({"Cc", "Zl", "Zp", "Cs"})
_ENCODED_WORD = re.compile(r"=\?.*\?=")

_HEADER_NAME = re.compile(r"X-[A-Za-z0-9][A-Za-z0-9-]{0,37}", re.IGNORECASE)
#: Our own header, and those with which mail services are controlled, some of which add recipients.
_TAKEN_HEADERS = re.compile(r"X-(Job-ID|SMTPAPI|MSYS-API|(MC|MJ|PM|SES|Mailgun|Envelope|Original)-.*)", re.IGNORECASE)
#: The characters of a URI (RFC 3986).
_URI_CHARACTERS = r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]"

Uri = Annotated[str, Meta(max_length=900, pattern=rf"^(https://[A-Za-z0-9]|mailto:[A-Za-z0-9]){_URI_CHARACTERS}*\Z")]
Uris = Uri | Annotated[tuple[Uri, ...], Meta(max_length=MAX_UNSUBSCRIBE_URIS)]
HeaderValue = Annotated[str, Meta(max_length=MAX_HEADER_CHARACTERS)]
WantedHeaders = Annotated[dict[str, HeaderValue], Meta(max_length=MAX_HEADERS)]


class Mail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload. A valid instance can be sent safely: no field can add a header or a recipient."""

    to: Recipient | Annotated[tuple[Recipient, ...], Meta(min_length=1, max_length=MAX_LISTED)]
    subject: Annotated[str, Meta(max_length=MAX_SUBJECT_CHARACTERS)]
    body: Text
    html: Text | None = None
    cc: Recipients | None = None
    bcc: Recipients | None = None
    reply_to: Recipient | None = None
    list_unsubscribe: Uris | None = None
    list_unsubscribe_post: bool | None = None
    headers: WantedHeaders | None = None
    attachments: Attachments | None = None

    def __post_init__(self) -> None:
        """Check what the types do not express. Raises `InvalidRequest` with a pointer to the field."""
        self._check_recipients()
        if problem := _problem_with_text(self.subject):
            raise InvalidRequest(f"expected a subject {problem}", pointer="/payload/subject")
        if self.list_unsubscribe_post and not any(uri.startswith("https:") for uri in _listed(self.list_unsubscribe)):
            sentence = "list_unsubscribe_post needs an https: URI in list_unsubscribe (RFC 8058)"
            raise InvalidRequest(sentence, pointer="/payload/list_unsubscribe_post")
        _check_headers(self.headers or {})
        _attachments.check(self.attachments or ())

    def _check_recipients(self) -> None:
        for pointer, address in self._addresses():
            if problem := problem_with(address):
                raise InvalidRequest(problem, pointer=pointer)
        if len(self.recipients) > MAX_RECIPIENTS:
            sentence = f"to, cc and bcc together must not have more than {MAX_RECIPIENTS} addresses"
            raise InvalidRequest(sentence, pointer="/payload")

    @property
    def recipients(self) -> tuple[str, ...]:
        """All recipients of the mail, each mailbox once."""
        unique: dict[str, str] = {}
        for address in (*_listed(self.to), *_listed(self.cc), *_listed(self.bcc)):
            unique.setdefault(_mailbox(address), address)
        return tuple(unique.values())

    @property
    def has_ascii_addresses(self) -> bool:
        return all(address.isascii() for _, address in self._addresses())

    def _addresses(self) -> Iterator[tuple[str, str]]:
        """Yield (JSON pointer, address) for each address."""
        for field in ("to", "cc", "bcc", "reply_to"):
            value = getattr(self, field)
            if isinstance(value, str):
                yield f"/payload/{field}", value
            else:
                yield from ((f"/payload/{field}/{index}", address) for index, address in enumerate(_listed(value)))


@job(
    "EMAIL_SEND",
    payload=Mail,
    example={
        "to": "alice@example.com",
        "subject": "Your report",
        "body": "It is attached.",
        "reply_to": "help@example.com",
    },
)
def send_email(mail: Mail, context: JobContext) -> str:
    """Send the mail and return its message id."""
    message = compose(mail, context.job_id, context.mailer.sender)
    context.stop_if_cancelled()
    _attachments.attach(message, mail.attachments or (), context.outputs)
    context.stop_if_cancelled()
    refuse_added_headers(message)
    context.stop_if_cancelled()
    context.mailer.send(message, recipients=mail.recipients, before_data=context.begin_effect)
    return str(message["Message-ID"])


def compose(mail: Mail, job_id: UUID, sender: Address) -> EmailMessage:
    """Build the message, without the addresses in `bcc`."""
    message = EmailMessage(policy=_POLICY.clone(utf8=not mail.has_ascii_addresses))
    message["Date"] = datetime.now(UTC)
    for header in _headers(mail, job_id, sender):
        message[header.name] = header
    _set_text(message, mail)
    return message


def _headers(mail: Mail, job_id: UUID, sender: Address) -> Iterator[Header]:
    yield headers.tokens("Message-ID", [f"<{job_id}@{sender.domain}>"])
    yield headers.tokens("X-Job-ID", [str(job_id)])
    yield headers.tokens("Auto-Submitted", ["auto-generated"])  # RFC 3834: automatic replies should not be sent
    yield headers.sender(sender)
    for name, addresses in (("To", mail.to), ("Cc", mail.cc), ("Reply-To", mail.reply_to)):
        if addresses:
            yield headers.tokens(name, _listed(addresses))
    yield headers.text("Subject", mail.subject)
    if mail.list_unsubscribe:
        yield headers.tokens("List-Unsubscribe", [f"<{uri}>" for uri in _listed(mail.list_unsubscribe)])
    if mail.list_unsubscribe_post:
        yield headers.tokens("List-Unsubscribe-Post", ["List-Unsubscribe=One-Click"])
    for name, value in (mail.headers or {}).items():
        yield headers.text(name, value)


def refuse_added_headers(message: EmailMessage) -> None:
    """Parse the message as its recipients will, and compare. Raises `Rejected` if a header was added or lost.

    No payload that `Mail` accepts is known to cause this; it guards against a bug in the standard library.
    """
    try:
        received = message_from_bytes(message.as_bytes())
    except MessageError as error:
        raise Rejected(f"the mail cannot be encoded: {type(error).__name__}") from None
    if [part.keys() for part in received.walk()] != [part.keys() for part in message.walk()]:
        raise Rejected("the encoded mail has other headers than those that were set")


def _set_text(message: EmailMessage, mail: Mail) -> None:
    message.set_content(mail.body)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")


def _listed(addresses: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (addresses,) if isinstance(addresses, str) else addresses or ()


def _mailbox(address: str) -> str:
    """Return the normal form of an address, in which the domain ignores case and the local part does not."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


def _check_headers(wanted: WantedHeaders) -> None:
    if len({name.lower() for name in wanted}) < len(wanted):
        raise InvalidRequest("send each header only once; names ignore case", pointer="/payload/headers")
    for name, value in wanted.items():
        if not _HEADER_NAME.fullmatch(name):
            sentence = "expected header names that begin with X-, of at most 40 letters, digits and hyphens"
            raise InvalidRequest(sentence, pointer="/payload/headers")
        if _TAKEN_HEADERS.fullmatch(name):
            raise InvalidRequest("this header is reserved: a payload cannot set it", pointer=f"/payload/headers/{name}")
        if problem := _problem_with_text(value):
            raise InvalidRequest(f"expected a value {problem}", pointer=f"/payload/headers/{name}")


def _problem_with_text(value: str) -> str | None:
    if any(unicodedata.category(character) in _LINE_BREAKERS for character in value):
        return "without line breaks or other control characters"
    if _ENCODED_WORD.search(value):  # some programs decode it more than once, which can add headers (CVE-2024-6923)
        return 'without encoded words ("=?…?=")'
    return None
