"""The request that submitted a job: its id and W3C trace context, from the headers to the log lines of each attempt."""

import re
from dataclasses import dataclass
from typing import Self

from jobs_service.ids import new_id

#: Printable ASCII without spaces, because the id is logged and sent back in a header.
_REQUEST_ID = re.compile(r"[!-~]{1,128}")

_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that submitted a job. A row inserted by hand has neither id nor trace context."""

    request_id: str | None = None
    #: The value of the `traceparent` header, in version 00.
    traceparent: str | None = None

    @classmethod
    def of_request(cls, request_id: str | None, traceparent: str | None) -> Self:
        """Read the headers. An invalid request id is replaced by a new one; an invalid trace context is ignored."""
        taken = request_id if request_id and _REQUEST_ID.fullmatch(request_id) else str(new_id())
        return cls(taken, read_traceparent(traceparent or ""))

    @property
    def trace_id(self) -> str | None:
        return self.traceparent.split("-")[1] if self.traceparent else None

    @property
    def fields(self) -> dict[str, str]:
        """The fields for log lines."""
        known = {"request_id": self.request_id, "trace_id": self.trace_id}
        return {name: value for name, value in known.items() if value}


def read_traceparent(header: str) -> str | None:
    """Return a valid trace context as version 00, or None for any other text (W3C Trace Context, section 3.2)."""
    found = _TRACEPARENT.fullmatch(header.strip())
    if not found or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    if not int(found["trace"], 16) or not int(found["parent"], 16):
        return None
    # Only the lowest flag is defined: sampled.
    return f"00-{found['trace']}-{found['parent']}-{int(found['flags'], 16) & 1:02x}"
