"""How pages write times, durations and numbers."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

#: What stands for a value that there is not.
NOTHING = "—"

_STEPS = ((60, "s"), (3_600, "min"), (86_400, "h"), (float("inf"), "d"))
_UNITS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}

#: Characters that are not seen, or that change the order of others, so that a text would look like another one.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

#: From so many seconds on, tenths of a second say nothing.
_WHOLE_SECONDS = 10


def duration(seconds: float | None) -> str:
    """Return 84 ms, 4.2 s, 3 min 20 s, 2 h 5 min or 4 d 3 h; a dash for None."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < _WHOLE_SECONDS:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    unit = next(unit for limit, unit in _STEPS if whole < limit)
    first, rest = divmod(whole, _UNITS[unit])
    smaller = {"min": "s", "h": "min", "d": "h"}.get(unit)
    second = rest // _UNITS[smaller] if smaller else 0
    return f"{first} {unit} {second} {smaller}" if second else f"{first} {unit}"


def parsed(time: str | datetime) -> datetime:
    """Return a time of the API (RFC 3339)."""
    return time if isinstance(time, datetime) else datetime.fromisoformat(time)


def between(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two times of the API, or until now; None without a start."""
    if start is None:
        return None
    return ((parsed(end) if end else datetime.now(UTC)) - parsed(start)).total_seconds()


def ago(time: str | None) -> Markup | str:
    """Return a time as how long ago it was, or how far away it is, which the script keeps current."""
    if time is None:
        return NOTHING
    seconds = (datetime.now(UTC) - parsed(time)).total_seconds()
    text = _coarse(abs(seconds))
    words = "now" if text == "now" else f"{text} ago" if seconds >= 0 else f"in {text}"
    return Markup('<time datetime="{time}" title="{full}" data-ago>{words}</time>').format(
        time=time, full=moment(time), words=words
    )


def _coarse(seconds: float) -> str:
    if seconds < 1:
        return "now"
    unit = next(unit for limit, unit in _STEPS if seconds < limit)
    return f"{seconds // _UNITS[unit]:.0f} {unit}"


def moment(time: str | datetime | None) -> str:
    """Return a time in full, in UTC."""
    return NOTHING if time is None else f"{parsed(time).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock(time: str | datetime) -> str:
    """Return the time of day, in UTC, with milliseconds."""
    return parsed(time).astimezone(UTC).isoformat(timespec="milliseconds")[11:23]


def number(value: float | None) -> str:
    """Return 1,234 or 0.4; a dash for None."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value == round(value) or value >= _WHOLE_SECONDS else f"{value:,.1f}"


def pretty(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Return JSON with indented lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def visible(text: str) -> Markup:
    """Return a text with the numbers of the characters that are not seen, instead of what they would do to the text."""
    marked = _INVISIBLE.sub(lambda found: f"<span class=invisible>\\u{ord(found[0]):04x}</span>", str(escape(text)))
    return Markup(marked)  # noqa: S704 - it is escaped


def short_id(job_id: str) -> str:
    """Return the end of an id, which differs from that of other jobs: the beginning is the time."""
    return job_id[-12:]


def lasted(start: str, end: str | None) -> str:
    """Return how long it was from one time to another; a dash if it has not ended."""
    return NOTHING if end is None else duration(between(start, end))


def segment(name: str) -> str:
    """Return a name as a part of a path."""
    return quote(name, safe="")


def isolate(text: str) -> Markup:
    """Return a text that keeps the direction of its writing to itself."""
    return Markup("<bdi>{}</bdi>").format(text)


def prose(text: str) -> Markup:
    """Return a text of a docstring, in which names between backticks are code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def query(values: Mapping[str, object], **further: object) -> str:
    """Return the query of a URL, without what is empty."""
    return urlencode({name: value for name, value in {**values, **further}.items() if value not in (None, "")})


def utc_time(text: str) -> str:
    """Return a date and time without a zone, as a browser's field gives it, as one in UTC; other texts as they are."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if time.tzinfo else f"{time.isoformat()}Z"


def local_time(text: str) -> str:
    """Return a date and time in UTC as a browser's field takes it, "" for what is none."""
    try:
        time = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    return time.replace(tzinfo=None).isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def shortened(text: str, most_bytes: int) -> str:
    """Return a text that takes so many bytes of a page at most."""
    if len(text) * 6 <= most_bytes:
        return text
    size = 0
    for place, character in enumerate(text):
        size += len(escape(character).encode("utf-8", "replace"))
        if size > most_bytes:
            return f"{text[:place]}…"
    return text


FILTERS = {
    "duration": duration,
    "ago": ago,
    "moment": moment,
    "clock": clock,
    "number": number,
    "pretty": pretty,
    "short_id": short_id,
    "visible": visible,
    "lasted": lasted,
    "segment": segment,
    "prose": prose,
    "query": query,
    "isolate": isolate,
}
