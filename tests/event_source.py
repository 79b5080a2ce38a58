"""Reads `text/event-stream` as browsers do (HTML Living Standard, section 9.2), and reconnects as they do."""

import http.client
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """An event as `EventSource` dispatches it."""

    name: str
    text: str
    last_event_id: str

    @property
    def data(self):
        return json.loads(self.text)


class Parser:
    """Interprets the lines of a stream."""

    def __init__(self):
        self.last_event_id = ""
        self.retry_ms = None
        self.comments = []
        self._name, self._data, self._id = "", [], ""

    def feed(self, line):
        """Take a line without its end. Return the message that it completes, or None."""
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "":
                self.comments.append(value)
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_ms = int(value)
        return None

    def _dispatch(self):
        self.last_event_id = self._id
        name, data, self._name, self._data = self._name, self._data, "", []
        return Message(name or "message", "\n".join(data), self.last_event_id) if data else None


class EventSource:
    """One connection at a time. Iterating over it ends with the stream; `connect` resumes it."""

    def __init__(self, port, path, *, last_event_id=""):
        self.port, self.path = port, path
        self.parser = Parser()
        self.parser.last_event_id = self.parser._id = last_event_id
        self.connection = self.reply = None

    def connect(self, seconds=30):
        """Open the stream, or resume it. Return the status."""
        self.close()
        headers = {"Accept": "text/event-stream"}
        if self.parser.last_event_id:
            headers["Last-Event-ID"] = self.parser.last_event_id
        self.parser._id = self.parser.last_event_id
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        self.connection.request("GET", self.path, headers=headers)
        self.reply = self.connection.getresponse()
        return self.reply.status

    def __iter__(self):
        for raw in self.reply:
            if message := self.parser.feed(raw.decode().rstrip("\r\n")):
                yield message

    def until(self, condition):
        """Return the messages up to the first for which the condition is true, or to the end of the stream."""
        found = []
        for message in self:
            found.append(message)
            if condition(message):
                break
        return found

    def has_begun(self):
        """Read up to the first id: from here on nothing is missed."""
        while not self.parser.last_event_id:
            self.parser.feed(self.reply.readline().decode().rstrip("\r\n"))
        return self

    def close(self):
        if self.connection is not None:
            self.connection.close()
