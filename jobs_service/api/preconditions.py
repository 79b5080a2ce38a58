"""Conditional and range requests for a content with a strong entity tag and a date (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import falcon
from falcon.util import http_date_to_dt

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.IGNORECASE | re.ASCII)
#: More digits than those of any size.
_DIGITS = 18

#: Returns the value of a header of the request, None if it has none: `Request.get_header`.
GetHeader = Callable[[str], str | None]


class Preconditions:
    """What a request demands of the content that it is about, in the order of RFC 9110, section 13.2.2."""

    def __init__(self, get_header: GetHeader, *, etag: str, modified: datetime | None) -> None:
        """`etag` is strong, with its quotes; `modified` is None where the date is unknown."""
        self._get_header = get_header
        self._etag = etag
        self._modified = None if modified is None else modified.astimezone(UTC).replace(microsecond=0)

    @property
    def is_failed(self) -> bool:
        """Whether the client asked for another content: the answer is 412."""
        if (tags := self._get_header("If-Match")) is not None:
            return not self._has_tag(tags, weakly=False)
        date = self._date("If-Unmodified-Since")
        return date is not None and self._modified is not None and self._modified > date

    @property
    def is_unchanged(self) -> bool:
        """Whether the client has this content: the answer to GET and HEAD is 304."""
        if (tags := self._get_header("If-None-Match")) is not None:
            return self._has_tag(tags, weakly=True)
        date = self._date("If-Modified-Since")
        return date is not None and self._modified is not None and self._modified <= date

    def wanted(self, size: int) -> range | None:
        """Return the bytes that a GET asks for; None for the whole content.

        The whole content is also the answer to several ranges, and to what is no range (section 14.2). Raises 416 for a
        range that begins behind the end.
        """
        found = _RANGE.fullmatch(self._get_header("Range") or "")
        if not found or not self._may_be_partial():
            return None
        first, last = (_number(digits) for digits in found.groups())
        if first is None:
            return None if last is None else _suffix(last, size)
        if last is not None and last < first:
            return None
        if first >= size:
            raise _unsatisfiable(size)
        return range(first, size if last is None else min(last + 1, size))

    def _may_be_partial(self) -> bool:
        """Tell whether the client's other part is of this content, if it says so with `If-Range`."""
        validator = (self._get_header("If-Range") or "").strip()
        if not validator or _TAG.fullmatch(validator):
            return validator in ("", self._etag)
        # Only an equal date counts. A client sends one only if it got it a second later than the change that it names,
        # so a second change would have another date (section 8.8.2.2).
        return self._modified is not None and self._date("If-Range") == self._modified

    def _has_tag(self, tags: str, *, weakly: bool) -> bool:
        if tags.strip() == "*":
            return True
        return any((tag.removeprefix("W/") if weakly else tag) == self._etag for tag in _TAG.findall(tags))

    def _date(self, header: str) -> datetime | None:
        """Return the date of a header; None for anything else, which must be ignored."""
        try:
            return http_date_to_dt(self._get_header(header) or "", obs_date=True)
        except (ValueError, OverflowError):
            return None


def _number(digits: str) -> int | None:
    """Return the number; one that is too large for every size is as good as a smaller one."""
    if not digits:
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS else 10**_DIGITS


def _suffix(length: int, size: int) -> range | None:
    if not length:
        raise _unsatisfiable(size)
    # All of an empty content has no positions that could be named.
    return range(max(size - length, 0), size) if size else None


def _unsatisfiable(size: int) -> falcon.HTTPRangeNotSatisfiable:
    return falcon.HTTPRangeNotSatisfiable(
        size, title="range_not_satisfiable", description=f"The file has {size} bytes. Ask for a range of those."
    )
