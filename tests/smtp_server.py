"""A mail server that says what a test tells it to, in a thread of its own on a private port."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

#: Instead of a reply: close the connection; say nothing; say a byte now and then, never a line; talk without end.
HANG_UP, SILENCE, TARPIT, FLOOD = "<hang up>", "<silence>", "<tarpit>", "<flood>"
#: As the reply to DATA: "go ahead", and then never read again, so that the sender's buffers fill up.
DEAF = "<deaf>"
#: As the reply to DATA: "go ahead", and then, in the middle of the mail, some last words and the end.
CUT_SHORT = "<cut short>"
#: Behind a reply: say it, and close the connection.
AND_HANG_UP = "<and hang up>"

_REPLIES = {
    "CONNECT": "220 test ESMTP",
    "EHLO": "250-test\r\n250 SMTPUTF8",
    "STARTTLS": "220 go ahead",
    "DATA": "354 go ahead",
    "CONTENT": "250 queued",
    "QUIT": "221 bye",
}


@dataclass(frozen=True)
class Received:
    """One mail as it was accepted."""

    sender: str
    recipients: list[str]
    content: bytes


@dataclass
class SmtpServer:
    """Answers each verb with its reply from `replies`, or else with what a willing server says.

    A key is a verb ("RCPT"), a verb with an address ("RCPT ann@example.net"), CONNECT, CONTENT for the end of a mail,
    or EHLO AGAIN for the one after STARTTLS. Without `tls` a client that was told to start it waits for ever. `with`
    starts and stops it.
    """

    replies: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    tls_from_the_start: bool = False
    mails: list[Received] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError):  # wakes accept()
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self.stopped.is_set():
            connection, _ = self._listener.accept()
            self.connections += 1
            with contextlib.suppress(OSError, EOFError):
                _Session(self, connection).run()


class _Session:
    """One connection. EOFError is its end, whoever wanted it."""

    def __init__(self, server: SmtpServer, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection
        self._told = {**_REPLIES, **server.replies}
        self._sender, self._recipients = "", []

    def run(self) -> None:
        try:
            if self._server.tls_from_the_start:
                self._encrypt()
            self._lines = self._connection.makefile("rb")
            self._reply("CONNECT")
            while True:
                self._obey(self._line().decode().rstrip("\r\n"))
        finally:
            self._connection.close()

    def _obey(self, command: str) -> None:
        self._server.commands.append(command)
        verb = command.split(maxsplit=1)[0].upper()
        accepted = self._reply(f"{verb} {_address(command)}", verb)[0] in "23"
        act: Callable[[str], None] | None = getattr(self, f"_on_{verb.lower()}", None)
        if accepted and act:
            act(command)

    def _on_mail(self, command: str) -> None:
        self._sender, self._recipients = _address(command), []

    def _on_rcpt(self, command: str) -> None:
        self._recipients.append(_address(command))

    def _on_starttls(self, _: str) -> None:
        self._encrypt()
        self._told |= {"EHLO": self._told.get("EHLO AGAIN", self._told["EHLO"])}
        self._lines = self._connection.makefile("rb")

    def _on_data(self, _: str) -> None:
        lines = list(iter(self._line, b".\r\n"))
        if self._reply("CONTENT").startswith("250"):
            received = Received(self._sender, self._recipients, b"".join(line.removeprefix(b".") for line in lines))
            self._server.mails.append(received)

    def _encrypt(self) -> None:
        if not self._server.tls:
            self.be_silent()
        self._connection = self._server.tls.wrap_socket(self._connection, server_side=True)

    def _line(self) -> bytes:
        if not (line := self._lines.readline()):
            raise EOFError
        return line

    def _reply(self, *keys: str) -> str:
        reply = next((self._told[key] for key in keys if key in self._told), "250 fine")
        misbehave: Callable[[], None] | None = _MISBEHAVIOURS.get(reply)
        if misbehave:
            misbehave(self)
        self._connection.sendall(reply.removesuffix(AND_HANG_UP).encode() + b"\r\n")
        if reply.endswith(AND_HANG_UP):
            self.hang_up()
        return reply

    def hang_up(self) -> None:
        raise EOFError

    def be_silent(self) -> None:
        while self._connection.recv(4_096):
            pass
        raise EOFError

    def be_deaf(self) -> None:
        self._connection.sendall(b"354 go ahead\r\n")
        self._server.stopped.wait()
        raise EOFError

    def cut_short(self) -> None:
        self._connection.sendall(b"354 go ahead\r\n")
        self._line()
        self._connection.sendall(b"421 4.3.2 shutting down for backups\r\n")
        raise EOFError

    def drip(self) -> None:
        while not self._server.stopped.wait(0.01):
            self._connection.sendall(b"2")
        raise EOFError

    def flood(self) -> None:
        while not self._server.stopped.is_set():
            self._connection.sendall(b"250-and\r\n" * 1_000)
        raise EOFError


_MISBEHAVIOURS = {
    HANG_UP: _Session.hang_up,
    SILENCE: _Session.be_silent,
    TARPIT: _Session.drip,
    FLOOD: _Session.flood,
    DEAF: _Session.be_deaf,
    CUT_SHORT: _Session.cut_short,
}


def _address(command: str) -> str:
    return command.partition("<")[2].partition(">")[0]
