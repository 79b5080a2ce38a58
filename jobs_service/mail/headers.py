"""Writes the headers of a mail instead of the standard library, so that they arrive unchanged.

When `email` folds long headers it changes some of them: runs of spaces, punctuation beside an encoded word, long
addresses. Each Python version does so differently. Here lines are broken only between pieces, and whatever is not plain
text is encoded as base64.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from email.headerregistry import Address
from email.policy import EmailPolicy
from typing import Self

#: Characters in a line: RFC 2047 allows no more in a line with an encoded word; RFC 5322 recommends 78.
_LINE = 76
#: An encoded word has at most 75 characters; a line that begins with one has a space before it.
_BEGIN, _END = "=?utf-8?b?", "?="

#: A name that needs no quotes: RFC 5322's atoms with spaces between them.
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+( [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
#: A line may be broken at a single space. Some readers reduce a run of spaces at the beginning of a line to one.
_BLANK = re.compile(r"(?<! ) (?! )")


class Header(str):
    """One header in its final form. `EmailMessage` accepts anything with a `name`, and writes it with its `fold`."""

    __slots__ = ("_pieces", "name")

    name: str
    _pieces: tuple[str, ...]

    def __new__(cls, name: str, pieces: Sequence[str]) -> Self:
        """`pieces` are ASCII, or UTF-8 in a message that allows it. They are separated by a space or a line break."""
        header = super().__new__(cls, " ".join(pieces))
        header.name, header._pieces = name, tuple(pieces)
        return header

    def fold(self, *, policy: EmailPolicy) -> str:
        first, *others = self._pieces
        lines = [f"{self.name}: {first}"]
        for piece in others:
            if len(lines[-1]) + 1 + len(piece) <= _LINE:
                lines[-1] += f" {piece}"
            else:
                lines.append(f" {piece}")
        return "".join(line + policy.linesep for line in lines)


def text(name: str, value: str) -> Header:
    """Return a header with any text, such as Subject."""
    pieces = _BLANK.split(value)
    room = _LINE - len(f"{name}: ")
    if _is_plain(value) and all(len(piece) <= room for piece in pieces):
        return Header(name, pieces)
    return Header(name, list(_encoded_words(value, room)))


def tokens(name: str, values: Sequence[str]) -> Header:
    """Return a header of ASCII values separated by commas. No value is broken or encoded.

    In a message that is UTF-8, addresses may contain other characters too.
    """
    *others, last = values
    return Header(name, [*(f"{value}," for value in others), last])


def sender(address: Address) -> Header:
    """Return the header From."""
    return Header("From", [*_phrase(address.display_name, _LINE - len("From: ")), _in_brackets(address)])


def _in_brackets(address: Address) -> str:
    return f"<{address.addr_spec}>" if address.display_name else address.addr_spec


def _phrase(name: str, room: int) -> Iterator[str]:
    """Yield the pieces of a display name."""
    quoted = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    if not _is_plain(name) or len(quoted) > room:
        yield from _encoded_words(name, room)
    elif name:
        yield name if _ATOMS.fullmatch(name) else quoted


def _is_plain(value: str) -> bool:
    """Tell whether every reader takes the text literally: no line breaks, nothing that looks like an encoded word."""
    return value.isascii() and value.isprintable() and "=?" not in value and value == value.strip()


def _encoded_words(value: str, room: int) -> Iterator[str]:
    """Yield encoded words (RFC 2047), each of whole characters, the first at most `room` characters long.

    Readers drop the spaces between them.
    """
    word = b""
    for character in value:
        encoded = character.encode()
        if len(word) + len(encoded) > _bytes_in(room):
            yield _encoded_word(word)
            word, room = b"", _LINE - len(" ")
        word += encoded
    if word:
        yield _encoded_word(word)


def _bytes_in(room: int) -> int:
    """Return how many bytes fit into an encoded word of `room` characters."""
    return (room - len(_BEGIN + _END)) // 4 * 3


def _encoded_word(content: bytes) -> str:
    return _BEGIN + b2a_base64(content, newline=False).decode() + _END
