"""What a page shows of a long text: its beginning, and in which form."""

from contextlib import suppress
from dataclasses import dataclass

import msgspec

from jobs_service.api.console.formats import visible

#: JSON texts of up to so many bytes are shown with indented lines. Longer ones are cut anyway.
MAX_PRETTY = 65_536


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a text."""

    text: str
    #: The bytes of the whole text, in UTF-8.
    size: int
    is_cut: bool = False


def excerpt(text: str, *, most: int) -> Excerpt:
    """Return as much of a text as takes `most` bytes in a page, where some characters are written as entities."""
    size = len(text.encode("utf-8", "replace"))
    shown = text[:most]
    while (needed := bytes_of(shown)) > most:
        shown = shown[: min(len(shown) - 1, len(shown) * most // needed)]
    return Excerpt(shown, size, is_cut=len(shown) < len(text))


def bytes_of(text: str) -> int:
    """Return the bytes that a text takes in a page."""
    return len(str(visible(text)).encode("utf-8", "replace"))


def pretty_json(raw: bytes) -> str:
    """Return a JSON text with indented lines: other spaces between its parts, and nothing else that is different.

    A text that is very long or very deep stays as it is.
    """
    if len(raw) <= MAX_PRETTY:
        with suppress(msgspec.DecodeError, RecursionError):
            raw = msgspec.json.format(raw, indent=2)
    return raw.decode("utf-8", "replace")
