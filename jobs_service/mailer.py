"""Sending mail: the contract, SMTP, and a list in memory."""

import contextlib
import random
import re
import smtplib
import ssl
from collections.abc import Callable, Iterator, Sequence
from email.headerregistry import Address
from email.message import EmailMessage
from typing import NoReturn, Protocol, Self

import structlog

from jobs_service.addresses import problem_with
from jobs_service.breaker import Breaker
from jobs_service.config import Settings
from jobs_service.errors import JobsError, OutcomeUnknown, Rejected, SettingsError, Snoozed
from jobs_service.smtp import AnswerLost, Conversation, Deadline, default_ehlo_name

log = structlog.get_logger(__name__)

#: Refusals of this service, not of the mail: log in first, wrong password, encrypt first. An operator mends them,
#: so the job is tried again.
_OPERATOR_CODES = frozenset({530, 534, 535, 538})
#: What a server says that would say it to every mail: it closes, or fails within (RFC 5321, section 4.2.3).
_SERVER_CODES = _OPERATOR_CODES | {421}
#: How much of a server's reply is kept.
_REPLY_CHARACTERS = 300
#: "jobs@example.com", "Jobs <jobs@example.com>" or the same with the name in quotes.
_SENDER = re.compile(r'(?:(?P<name>[^<>"@]*|"[^<>"]*")\s*<)?(?P<address>[^<>\s]+)(?(name)>)')
_ADDRESS = re.compile(r"[^\s<>]+@[^\s<>]+")


class MailUnavailable(JobsError):
    """The mail server could not be reached or said "not now". Another attempt may succeed."""


class MailServerDown(MailUnavailable):
    """It is the server that is unwell, not this mail or its recipients: the next mail would fare no better."""


class DeliveryUnknown(MailServerDown, OutcomeUnknown):
    """The whole mail was sent, but the server's answer was lost. Another attempt may deliver it twice."""


class Mailer(Protocol):
    """Hands one message to a mail server."""

    @property
    def sender(self) -> Address:
        """The address that all mail is from."""

    def send(
        self, message: EmailMessage, *, recipients: Sequence[str], before_data: Callable[[], None] = lambda: None
    ) -> None:
        """Deliver to exactly these addresses, each named once, whatever the message's headers say.

        `before_data` is called just before what cannot be taken back. Raises `Rejected` when the server refuses for
        good, `Snoozed` while it is left alone, `OutcomeUnknown` when nobody can tell whether the mail was taken, and
        another error when the next attempt may succeed.
        """


class MemoryMailer:
    """Keeps what it is given: for the tests of job types."""

    def __init__(self) -> None:
        self.sender = Address("Jobs", "jobs", "example.com")
        self.sent: list[tuple[EmailMessage, tuple[str, ...]]] = []

    def send(
        self, message: EmailMessage, *, recipients: Sequence[str], before_data: Callable[[], None] = lambda: None
    ) -> None:
        before_data()
        self.sent.append((message, tuple(recipients)))


class SmtpMailer:
    """One connection and one deadline a mail: connecting, TLS, login, sending and every reply together.

    - A recipient refused for now (4xx) stops the mail before anybody gets it: the next attempt doubles nobody's.
    - Recipients refused for good (5xx) beside others do not: the others get it, and the log has the number of the
      refused. Another attempt would not help them, and would double the others'.

    A server that fails a few times in a row is left alone for a while, and the jobs are put off meanwhile without using
    an attempt. Nothing else is kept between mails, so threads may share it. Only the look-up of the host's address is
    outside the deadline: the system's resolver has timeouts of its own.
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
        breaker: Breaker | None = None,
    ) -> None:
        """`tls` is "none", "starttls" or "tls"; by default the server's certificate must be one the system trusts.

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
        self._breaker = breaker or Breaker("smtp", failures=5, pause_seconds=30.0)

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
            breaker=Breaker(
                "smtp", failures=settings.mail_breaker_failures, pause_seconds=settings.mail_breaker_seconds
            ),
        )

    @property
    def sender(self) -> Address:
        return self._sender

    def send(
        self, message: EmailMessage, *, recipients: Sequence[str], before_data: Callable[[], None] = lambda: None
    ) -> None:
        if wait_seconds := self._breaker.wait_seconds():
            raise _snoozed(wait_seconds)
        try:
            self._send(message, recipients, before_data)
        except MailServerDown as error:
            self._server_failed(error)
        except (MailUnavailable, Rejected):
            self._breaker.answered()
            raise
        else:
            self._breaker.answered()

    def _server_failed(self, error: MailServerDown) -> NoReturn:
        pause_seconds = self._breaker.failed()
        if pause_seconds and not isinstance(error, OutcomeUnknown):
            raise _snoozed(pause_seconds, error) from None
        raise error

    def _send(self, message: EmailMessage, recipients: Sequence[str], before_data: Callable[[], None]) -> None:
        content, utf8 = message.as_bytes(), getattr(message.policy, "utf8", False)
        try:
            with self._conversation() as conversation:
                _refuse_utf8_beyond_the_server(conversation, utf8=utf8)
                refused = conversation.deliver(
                    content, self._sender.addr_spec, recipients, utf8=utf8, before_data=before_data
                )
        except (OSError, UnicodeError) as error:  # smtplib's errors are OSErrors; UnicodeErrors come from host names
            raise _verdict(error, recipients) from None  # the cause would carry addresses into tracebacks
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
        raise Rejected("the mail server takes no addresses beyond ASCII (SMTPUTF8)")


def _verdict(error: Exception, recipients: Sequence[str]) -> JobsError:
    """Decide whether the next attempt may succeed, and say what the server said."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            return _recipients_refused(error, recipients)
        case smtplib.SMTPSenderRefused() | smtplib.SMTPDataError():
            kind = _kind(error.smtp_code)
            return kind(f"the mail server refused the mail: {_reply(error.smtp_code, error.smtp_error)}")
        case smtplib.SMTPAuthenticationError():
            reply = _reply(error.smtp_code, error.smtp_error)
            return MailServerDown(f"the mail server refused MAIL_USERNAME and MAIL_PASSWORD: {reply}")
        case smtplib.SMTPResponseException():
            kind = MailServerDown if error.smtp_code in _SERVER_CODES else MailUnavailable
            return kind(f"the mail server answered {_reply(error.smtp_code, error.smtp_error)}")
        case AnswerLost():
            return DeliveryUnknown(f"the mail was sent, but the server's answer was lost: {_printable(str(error))}")
        case _:
            return MailServerDown(f"the mail server is unavailable: {_printable(str(error))}")


def _recipients_refused(error: smtplib.SMTPRecipientsRefused, recipients: Sequence[str]) -> JobsError:
    replies = [error.recipients[address] for address in recipients]
    kind = Rejected if all(_is_final(code) for code, _ in replies) else MailUnavailable
    return kind(f"the mail server refused all {len(replies)} recipients, the first with: {_reply(*replies[0])}")


def _kind(code: int) -> type[JobsError]:
    if _is_final(code):
        return Rejected
    return MailServerDown if code in _SERVER_CODES else MailUnavailable


def _snoozed(seconds: float, error: Exception | None = None) -> Snoozed:
    """Spread what waits for the server over a while: it need not come back at once, and not into a crowd."""
    reason = f"the mail server is left alone for a while{f': {error}' if error else ''}"
    return Snoozed(reason, delay_seconds=seconds * random.uniform(1.0, 1.5))  # noqa: S311 - not a secret


def _is_final(code: int) -> bool:
    return 500 <= code < 600 and code not in _OPERATOR_CODES  # noqa: PLR2004 - RFC 5321's "permanent negative completion"


def _reply(code: int, text: bytes | str) -> str:
    return f"{code} {_printable(text if isinstance(text, str) else text.decode(errors='replace'))}"


def _printable(untrusted: str) -> str:
    """Make one short line of what a server said, without the addresses that it repeats."""
    visible = "".join(character if character.isprintable() else " " for character in untrusted)
    return _ADDRESS.sub("<address>", " ".join(visible.split()))[:_REPLY_CHARACTERS]


def _sender(text: str) -> Address:
    found = _SENDER.fullmatch(text)
    if not found or not text.isprintable() or problem_with(found["address"]) or not found["address"].isascii():
        raise SettingsError(["MAIL_FROM is wrong: expected name@example.com or Name <name@example.com>"])
    return Address((found["name"] or "").strip().strip('"'), addr_spec=found["address"])


def _credentials(username: str, password: str) -> tuple[str, str]:
    if not (username + password).isascii():
        raise SettingsError(["MAIL_USERNAME and MAIL_PASSWORD must be plain ASCII: smtplib can send no other"])
    return username, password
