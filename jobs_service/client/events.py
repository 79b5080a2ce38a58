"""Server-Sent Events (WHATWG HTML, section 9.2), and how a stream goes on after its connection was lost."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from jobs_service.client.models import Event, Status
from jobs_service.client.requests import Request

#: A stream without a byte for so long is lost: the API sends a comment every 15 s.
SILENCE_SECONDS = 45.0

#: No job has ended by these, whatever status they name.
_ABOUT_AN_ATTEMPT = frozenset({"progress", "log"})


class Feed:
    """The place in a stream: takes its bytes, yields its events, and knows the request that goes on behind them."""

    def __init__(self, path: str, query: Mapping[str, Any], last_event_id: str | None, job_id: str | None) -> None:
        """`job_id`: the stream is that of a job, and over when the job has ended."""
        self._path = path
        self._query = query
        self._job_id = job_id
        self.last_event_id = last_event_id
        self.is_over = False
        #: Seconds before the next connection, as the API asked for.
        self.pause_seconds = 1.0
        self._line = b""
        self._name = ""
        self._id = last_event_id or ""
        self._data: list[str] = []

    @property
    def request(self) -> Request:
        """The request for what comes behind the last event."""
        headers = {"Accept": "text/event-stream"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        return Request("GET", self._path, self._query, headers=headers, job_id=self._job_id, seconds=SILENCE_SECONDS)

    def connected(self, status: int) -> None:
        """Begin to read an answer with this status."""
        self._line, self._name, self._id, self._data = b"", "", self.last_event_id or "", []
        # 204: the job has ended, and all of its events were received.
        self.is_over = self.is_over or status == 204  # noqa: PLR2004 - RFC 9110, section 15.3.5

    def take(self, data: bytes) -> Iterator[Event]:
        """Yield the events that these bytes complete. Those of a job end with its end."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if self.is_over:
                return
            event = self._take_line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                self.is_over = self._job_id is not None and _is_end(event)
                yield event

    def _take_line(self, line: str) -> Event | None:
        if not line:
            return self._complete()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id":
            self._id = value
        elif name == "retry" and value.isdecimal():
            self.pause_seconds = int(value) / 1_000
        return None

    def _complete(self) -> Event | None:
        # An id counts when its block is complete, also in a block without an event.
        self.last_event_id = self._id or None
        name, data, self._name, self._data = self._name, "\n".join(self._data), "", []
        return Event(name=name, id=self._id, data=msgspec.json.decode(data)) if name and data else None


def _is_end(event: Event) -> bool:
    status = event.data.get("status")
    return event.name not in _ABOUT_AN_ATTEMPT and status is not None and Status(status).is_final
