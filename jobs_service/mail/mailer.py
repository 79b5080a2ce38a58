"""Sending mail: the protocol, an SMTP client, and a list in memory for tests."""

import contextlib
import re
import smtplib
import ssl
from collections.abc import Callable, Iterator, Sequence
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Protocol, Self

import structlog

from jobs_service.config import Settings
from jobs_service.descriptors import is_exhaustion
from jobs_service.errors import JobsError, OutcomeUnknown, Rejected, SettingsError, Unavailable
from jobs_service.mail.addresses import problem_with
from jobs_service.mail.smtp import (
    AnswerLost,
    Conversation,
    Deadline,
    MailInterrupted,
    ReplyToMail,
    default_ehlo_name,
    name_of,
)

log = structlog.get_logger(__name__)

#: Replies that refuse this service and not the mail: log in first, wrong password, encrypt first. An operator can fix
#: them, so the job is tried again.
_OPERATOR_CODES = frozenset({530, 534, 535, 538})
#: Replies that do not concern the mail: the above, and that the server is closing (RFC 5321, section 4.2.3).
_SERVER_CODES = _OPERATOR_CODES | {421}
#: The number of characters of a server's reply that are kept.
_REPLY_CHARACTERS = 300
#: "jobs@example.com", "Jobs <jobs@example.com>" or the same with the name in quotes.
_SENDER = re.compile(r'(?:(?P<name>[^<>"@]*|"[^<>"]*")\s*<)?(?P<address>[^<>\s]+)(?(name)>)')
#: What may be an address. Whether there is an @ in it is not asked of the pattern, which would look for one from each
#: character of a long word anew.
_WORD = re.compile(r"[^\s<>]+")


class MailNotTaken(JobsError):
    """The mail was not accepted, perhaps because of its content. Another attempt may succeed."""


class DeliveryUnknown(OutcomeUnknown):
    """The whole mail was sent, but the server's reply was lost. Another attempt may deliver it twice."""


class Mailer(Protocol):
    """Delivers one message to a mail server."""

    @property
    def sender(self) -> Address:
        """The address that all mail is from."""

    def send(
        self, message: EmailMessage, *, recipients: Sequence[str], before_data: Callable[[], None] = lambda: None
    ) -> None:
        """Deliver to exactly these addresses, without duplicates, whatever the message's headers say.

        `before_data` is called just before the mail can no longer be withdrawn. Raises `Rejected` when the server
        refuses permanently, `Unavailable` when it is unavailable or delays the mail, `OutcomeUnknown` when it may have
        accepted the mail or not, and another error when the next attempt may succeed.
        """


class MemoryMailer:
    """Keeps messages in a list, for the tests of job types."""

    def __init__(self) -> None:
        self.sender = Address("Jobs", "jobs", "example.com")
        self.sent: list[tuple[EmailMessage, tuple[str, ...]]] = []

    def send(
        self, message: EmailMessage, *, recipients: Sequence[str], before_data: Callable[[], None] = lambda: None
    ) -> None:
        before_data()
        self.sent.append((message, tuple(recipients)))


class SmtpMailer:
    """Sends each mail over a connection of its own, with one deadline for connecting, TLS, login and all replies.

    - If a recipient is refused temporarily (4xx), the mail is sent to no one, so that the next attempt sends no
      duplicates.
    - If some recipients are refused permanently (5xx), the others get the mail, and a log line has the number of those
      refused. Another attempt would not help them, and would send duplicates to the others.
    - If the server is unavailable or closes the connection before the mail itself is sent, this raises `Unavailable`
      with the server's name, which concerns every job. If it delays the mail (4xx), this raises `Unavailable` without a
      name, because the server may accept the next mail.

    No state is kept between mails, so threads may share a mailer. Resolving the host's name is not bounded by the
    deadline: the system's resolver has timeouts of its own.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        sender: str,
        username: str = "",
        password: str = "",
        tls: str = "none",
        ehlo_name: str = "",
        timeout_seconds: float = 20.0,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` is "none", "starttls" or "tls". By default the system must trust the server's certificate.

        `ehlo_name` is what this host calls itself, by default its own name or the sender's domain.
        Raises `SettingsError`.
        """
        self._sender = _sender(sender)
        self._host, self._port = host, port
        self._username, self._password = _credentials(username, password)
        self._tls = tls
        self._tls_context = None if tls == "none" else tls_context or ssl.create_default_context()
        self._ehlo_name = ehlo_name or default_ehlo_name(self._sender.domain)
        self._timeout_seconds = timeout_seconds
        self._server = name_of(host, port)
        self._ask: Callable[[str], None] = lambda server: None  # noqa: ARG005 - the name says what it takes
        self._before_recipient: Callable[[], None] = lambda: None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            host=settings.mail_host,
            port=settings.mail_port,
            sender=settings.mail_from,
            username=settings.mail_username,
            password=settings.mail_password,
            tls=settings.mail_tls,
            ehlo_name=settings.mail_ehlo_name,
            timeout_seconds=settings.mail_timeout_seconds,
        )

    def asking(self, ask: Callable[[str], None], before_recipient: Callable[[], None] = lambda: None) -> Self:
        """Return a mailer that calls `ask` with the server's name before each mail.

        `ask` raises `Unavailable` while that server is known to be away. `before_recipient` is called before the server
        is told a recipient, and may raise an error to send nothing.
        """
        # What `copy.copy` does, in a tenth of the time: every attempt has one.
        mailer = object.__new__(type(self))
        mailer.__dict__.update(self.__dict__, _ask=ask, _before_recipient=before_recipient)
        return mailer

    @property
    def sender(self) -> Address:
        return self._sender

    def send(
        self, message: EmailMessage, *, recipients: Sequence[str], before_data: Callable[[], None] = lambda: None
    ) -> None:
        self._ask(self._server)
        content, utf8 = message.as_bytes(), getattr(message.policy, "utf8", False)
        try:
            with self._conversation() as conversation:
                _refuse_utf8_beyond_the_server(conversation, utf8=utf8)
                refused = conversation.deliver(
                    content,
                    self._sender.addr_spec,
                    recipients,
                    utf8=utf8,
                    before_data=before_data,
                    before_recipient=self._before_recipient,
                )
        except (OSError, UnicodeError) as error:  # smtplib's errors are OSErrors; UnicodeErrors come from host names
            if is_exhaustion(error):
                raise  # this process can open no further file, which says nothing about the server
            raise _verdict(error, recipients, self._server) from None  # the cause would put addresses into tracebacks
        if refused:
            log.warning("mail refused for some recipients", refused=refused, recipients=len(recipients))

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[Conversation]:
        deadline = Deadline(self._timeout_seconds)
        encrypted = self._tls_context if self._tls == "tls" else None
        conversation = Conversation(self._host, self._port, ehlo_name=self._ehlo_name, deadline=deadline, tls=encrypted)
        with contextlib.closing(conversation):
            if self._tls == "starttls":
                conversation.starttls(context=self._tls_context)
            if self._username:
                conversation.login(self._username, self._password)
            yield conversation
            conversation.leave()


def _refuse_utf8_beyond_the_server(conversation: Conversation, *, utf8: bool) -> None:
    conversation.ehlo_or_helo_if_needed()
    if utf8 and not conversation.has_extn("smtputf8"):
        raise Rejected("the mail server does not support addresses that are not ASCII (SMTPUTF8)")


def _verdict(error: Exception, recipients: Sequence[str], server: str) -> JobsError:
    """Return the error that says whether and when another attempt may succeed, with the server's reply."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            return _recipients_refused([error.recipients[address] for address in recipients], server)
        case smtplib.SMTPResponseException():
            return _replied(error, server)
        case AnswerLost():
            return DeliveryUnknown(f"the mail was sent, but the server's reply was lost: {_printable(str(error))}")
        case MailInterrupted():
            return MailNotTaken(f"the connection was lost while the mail was being sent: {_printable(str(error))}")
        case _:
            return Unavailable(f"the mail server is unavailable: {_printable(str(error))}", server=server)


def _recipients_refused(replies: Sequence[tuple[int, bytes]], server: str) -> JobsError:
    # If any recipient may be tried again, its reply decides.
    code = min((code for code, _ in replies), key=_is_final)
    what = f"the mail server refused all {len(replies)} recipients, the first with: {_reply(*replies[0])}"
    return _refusal(code, what, server)


def _replied(error: smtplib.SMTPResponseException, server: str) -> JobsError:
    code, reply = error.smtp_code, _reply(error.smtp_code, error.smtp_error)
    match error:
        case smtplib.SMTPSenderRefused() | smtplib.SMTPDataError():
            return _refusal(code, f"the mail server refused the mail: {reply}", server)
        case smtplib.SMTPAuthenticationError():
            return Unavailable(f"the mail server refused MAIL_USERNAME and MAIL_PASSWORD: {reply}", server=server)
        case ReplyToMail():
            # A 5xx reply here came in the middle of the mail, and need not concern it.
            return _refusal(code, f"the mail server answered {reply}", server, final=MailNotTaken)
        case _:
            return Unavailable(f"the mail server answered {reply}", server=server)


def _refusal(code: int, what: str, server: str, *, final: type[JobsError] = Rejected) -> JobsError:
    """Return the error for a refused mail or its refused recipients. `final` is the error for a permanent refusal."""
    if code in _SERVER_CODES:
        return Unavailable(what, server=server)
    if _is_final(code):
        return final(what)
    return Unavailable(what) if 400 <= code < 500 else MailNotTaken(what)  # noqa: PLR2004 - RFC 5321, 4.2.1


def _is_final(code: int) -> bool:
    return 500 <= code < 600 and code not in _OPERATOR_CODES  # noqa: PLR2004 - RFC 5321's "permanent negative completion"


def _reply(code: int, text: bytes | str) -> str:
    return f"{code} {_printable(text if isinstance(text, str) else text.decode(errors='replace'))}"


def _printable(untrusted: str) -> str:
    """Return a server's reply as one short line, with addresses replaced."""
    visible = "".join(character if character.isprintable() else " " for character in untrusted)
    return _WORD.sub(_without_address, " ".join(visible.split()))[:_REPLY_CHARACTERS]


def _without_address(word: re.Match[str]) -> str:
    return "<address>" if "@" in word[0][1:-1] else word[0]


def _sender(text: str) -> Address:
    found = _SENDER.fullmatch(text)
    if not found or not text.isprintable() or problem_with(found["address"]) or not found["address"].isascii():
        raise SettingsError(["MAIL_FROM is wrong: expected name@example.com or Name <name@example.com>"])
    return Address((found["name"] or "").strip().strip('"'), addr_spec=found["address"])


def _credentials(username: str, password: str) -> tuple[str, str]:
    if not (username + password).isascii():
        raise SettingsError(["MAIL_USERNAME and MAIL_PASSWORD must be ASCII: smtplib cannot send other characters"])
    return username, password
