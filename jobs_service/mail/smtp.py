"""One SMTP session, with one deadline for all of its steps."""

import contextlib
import re
import select
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from jobs_service.failpoints import failpoint

#: The maximum size of all replies in one session. A greeting and the replies for 100 recipients need a tenth of it.
_REPLY_BYTES = 262_144
_RECEIVE_BYTES = 4_096
#: Small enough that the deadline is checked between two pieces even if the server reads slowly, also with TLS.
_SEND_BYTES = 16_384
#: The time after which a waiting thread returns to Python, where it can be interrupted.
_GLANCE_SECONDS = 0.2
#: How long to wait for the reply to QUIT. The mail has been accepted or refused by then.
_FAREWELL_SECONDS = 1.0
_END_OF_DATA = b"\r\n.\r\n"
#: A name that other hosts may resolve: with a dot, and not in a private domain.
_FULL_NAME = re.compile(
    r"([a-z0-9-]{1,63}\.)+(?!(local|localdomain|internal|lan|arpa)$)[a-z][a-z0-9-]{0,62}", re.IGNORECASE
)


class AnswerLost(OSError):
    """The whole mail was sent, but no reply to it was received."""


class MailInterrupted(OSError):
    """The connection was lost in the middle of the mail, so the server does not have it."""


class ReplyToMail(smtplib.SMTPResponseException):
    """A reply to this mail or one of its recipients, which says nothing about the server's health."""


class Deadline:
    """The time left for all steps together. Each step takes it as its timeout."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    def remaining(self) -> float:
        if (seconds := self._at - time.monotonic()) <= 0:
            raise TimeoutError(f"not done within {self._seconds:g} s")
        return seconds

    def shorten(self, seconds: float) -> None:
        self._at = min(self._at, time.monotonic() + seconds)


class Conversation(smtplib.SMTP):
    """smtplib's client with a limit on the total time. By itself it only limits the wait for each byte.

    A server that sends one byte every five seconds would otherwise block its caller for hours.
    """

    def __init__(
        self, host: str, port: int, *, ehlo_name: str, deadline: Deadline, tls: ssl.SSLContext | None = None
    ) -> None:
        """Connect and read the greeting. With `tls` the connection is encrypted from the first byte."""
        self._deadline = deadline
        self._tls = tls
        self._handed_over = False
        self._in_content = False
        self._before_data: Callable[[], None] = lambda: None
        self._before_recipient: Callable[[], None] = lambda: None
        self._answer_to_ehlo = (0, b"")
        super().__init__(host, port, local_hostname=ehlo_name, timeout=deadline.remaining())

    def deliver(
        self,
        content: bytes,
        sender: str,
        recipients: Sequence[str],
        *,
        utf8: bool,
        before_data: Callable[[], None],
        before_recipient: Callable[[], None] = lambda: None,
    ) -> int:
        """Send the mail. Return how many recipients were refused permanently while others were accepted.

        `before_recipient` is called before each recipient, `before_data` after recipients were accepted, just before
        the mail is sent.
        """
        self._before_data, self._before_recipient = before_data, before_recipient
        try:
            return len(self.sendmail(sender, recipients, content, ["SMTPUTF8"] if utf8 else []))
        except smtplib.SMTPServerDisconnected as error:
            if self._handed_over:
                raise AnswerLost(str(error)) from None
            if self._in_content:
                raise MailInterrupted(str(error)) from None
            raise
        except smtplib.SMTPResponseException as error:
            if self._handed_over and not _is_refusal(error):
                raise AnswerLost(f"the reply to the mail could not be read: {error.smtp_code}") from None
            raise

    def ehlo(self, name: str = "") -> tuple[int, bytes]:
        """Stop at a temporary refusal, where smtplib would go on with HELO and report the reply to that instead."""
        self._answer_to_ehlo = (0, b"")
        code, reply = self._answer_to_ehlo = super().ehlo(name)
        if 400 <= code < 500:  # noqa: PLR2004 - RFC 5321's "transient negative completion"
            raise smtplib.SMTPHeloError(code, reply)
        return code, reply

    def ehlo_or_helo_if_needed(self) -> None:
        try:
            super().ehlo_or_helo_if_needed()
        except smtplib.SMTPServerDisconnected:
            if not self._answer_to_ehlo[0]:
                raise
            # The server gave its reason in the reply to EHLO, and closed the connection before HELO.
            raise smtplib.SMTPHeloError(*self._answer_to_ehlo) from None

    def leave(self) -> None:
        self._deadline.shorten(_FAREWELL_SECONDS)
        with contextlib.suppress(OSError):
            self.docmd("QUIT")

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Give up the whole mail when a recipient is refused temporarily, so that a retry sends no duplicates."""
        self._before_recipient()
        code, reply = super().rcpt(recip, options)
        if 400 <= code < 500:  # noqa: PLR2004 - RFC 5321's "transient negative completion"
            raise ReplyToMail(code, reply)
        return code, reply

    def data(self, msg: bytes | str) -> tuple[int, bytes]:  # type: ignore[override] # typeshed allows any buffer
        self._before_data()
        failpoint("mail.before_data")
        answer = super().data(msg)
        failpoint("mail.after_data")
        return answer

    def send(self, s: bytes | str) -> None:  # type: ignore[override] # typeshed allows any buffer, smtplib sends these
        data = s.encode(self.command_encoding) if isinstance(s, str) else s
        # Only the mail ends like this: a command is a single line.
        self._in_content = self._in_content or data.endswith(_END_OF_DATA)
        for start in range(0, len(data), _SEND_BYTES):
            self._send_piece(data[start : start + _SEND_BYTES])
        self._handed_over = self._handed_over or data.endswith(_END_OF_DATA)

    def _send_piece(self, piece: bytes) -> None:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("not connected")
        try:
            self.sock.settimeout(self._deadline.remaining())
            self.sock.sendall(piece)
        except OSError as error:
            if not isinstance(error, TimeoutError):
                self._raise_last_words()
            self.close()
            raise smtplib.SMTPServerDisconnected(f"connection lost while sending: {error}") from error

    def _raise_last_words(self) -> None:
        """Look for a reply of a server that has hung up: it may have said why, while we were sending."""
        with contextlib.suppress(smtplib.SMTPServerDisconnected):
            code, reply = self.getreply()
            if 400 <= code < 600:  # noqa: PLR2004 - RFC 5321, 4.2.1
                raise (ReplyToMail if self._in_content else smtplib.SMTPResponseException)(code, reply)

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Replies(self.sock, self._deadline)
        return super().getreply()

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002 - smtplib's signature
        """Connect. Overrides smtplib's method, as its own SMTP_SSL does."""
        connected = _connect(host, port, self._deadline)
        return self._tls.wrap_socket(connected, server_hostname=host) if self._tls else connected


def _is_refusal(error: smtplib.SMTPResponseException) -> bool:
    """Tell whether the reply to the mail is 4xx or 5xx. For an unreadable reply smtplib makes up other codes."""
    return isinstance(error, smtplib.SMTPDataError) and 400 <= error.smtp_code < 600  # noqa: PLR2004 - RFC 5321, 4.2.1


class _Replies:
    """Reads the server's lines under the deadline. A file's `readline` would restart its timeout with every byte."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline
        self._unread = b""
        self._bytes_left = _REPLY_BYTES

    def readline(self, limit: int) -> bytes:
        while b"\n" not in self._unread and len(self._unread) < limit and (received := self._receive()):
            self._unread += received
        end = min(self._unread.find(b"\n") + 1 or len(self._unread), limit)
        line, self._unread = self._unread[:end], self._unread[end:]
        return line

    def close(self) -> None:
        """Do nothing: the socket belongs to the session."""

    def _receive(self) -> bytes:
        self._await()
        self._sock.settimeout(self._deadline.remaining())
        received = self._sock.recv(_RECEIVE_BYTES)
        self._sock.settimeout(self._deadline.remaining())  # for a TLS handshake, which uses the socket's timeout
        self._bytes_left -= len(received)
        if self._bytes_left < 0:
            raise OSError(f"the server sent more than {_REPLY_BYTES} bytes of replies")
        return received

    def _await(self) -> None:
        """Wait until there is something to receive. Raises `TimeoutError`."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return
        readiness = select.poll()
        readiness.register(self._sock, select.POLLIN)
        while not readiness.poll(min(self._deadline.remaining(), _GLANCE_SECONDS) * 1000):
            pass


def _connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first of the host's addresses that answers. The time left is divided among them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for left, (*_, address) in zip(range(len(found), 0, -1), found, strict=True):
        try:
            return _connected((str(address[0]), port), deadline.remaining() / left, deadline)
        except OSError:
            if left == 1:
                raise
    raise OSError(f"{host} has no address")


def _connected(address: tuple[str, int], timeout_seconds: float, deadline: Deadline) -> socket.socket:
    connected = socket.create_connection(address, timeout_seconds)
    connected.settimeout(deadline.remaining())
    return connected


def name_of(host: str, port: int) -> str:
    """Return the name of a mail server in rows, logs and metrics."""
    return f"smtp://{host}:{port}"


def default_ehlo_name(mail_domain: str) -> str:
    """Return the EHLO name when MAIL_EHLO_NAME is not set: this host's name if it is full, or the sender's domain.

    Servers refuse short names, which containers have. smtplib would make slow DNS look-ups for each mail, and would not
    find a better name.
    """
    return next(filter(_FULL_NAME.fullmatch, (socket.gethostname(), mail_domain)), "[127.0.0.1]")
