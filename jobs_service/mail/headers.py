"""The headers of a mail, written here and not by the standard library, so that their readers get what was meant.

`email` folds long headers and alters some by that: runs of blanks, signs beside an encoded word, long addresses; each
Python in a way of its own. Here lines are broken between pieces alone, and what is no plain text is base64.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from email.headerregistry import Address
from email.policy import EmailPolicy
from typing import Self

#: Characters of a line: RFC 2047 allows no more for one with an encoded word in it, RFC 5322 recommends 78.
_LINE = 76
#: An encoded word has at most 75; a line that begins with one has a blank before it.
_BEGIN, _END = "=?utf-8?b?", "?="

#: What a name may be made of to stand without quotes: RFC 5322's atoms, with blanks between them.
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+( [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
#: A line may be broken at a blank alone: some readers take a run of them at the begin of a line for one.
_BLANK = re.compile(r"(?<! ) (?! )")


class Header(str):
    """One header in its final form. `EmailMessage` keeps what has a `name` and writes it with its `fold`."""

    __slots__ = ("_pieces", "name")

    name: str
    _pieces: tuple[str, ...]

    def __new__(cls, name: str, pieces: Sequence[str]) -> Self:
        """`pieces` are ASCII, or UTF-8 in a message that may be; a blank stands between them, or a new line."""
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
    """Return a header of any text, as Subject is one."""
    pieces = _BLANK.split(value)
    room = _LINE - len(f"{name}: ")
    if _is_plain(value) and all(len(piece) <= room for piece in pieces):
        return Header(name, pieces)
    return Header(name, list(_encoded_words(value, room)))


def tokens(name: str, values: Sequence[str]) -> Header:
    """Return a header of ASCII values, with commas between them: none of them is broken or encoded.

    Addresses may go beyond ASCII, where the message is UTF-8.
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
    """Tell what every reader takes for itself: no line breaks, and nothing that could be an encoded word."""
    return value.isascii() and value.isprintable() and "=?" not in value and value == value.strip()


def _encoded_words(value: str, room: int) -> Iterator[str]:
    """Yield RFC 2047's words, each of whole characters, the first of at most `room` characters.

    Readers drop the blanks between them.
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
    """Return how many bytes base64 writes within so many characters of an encoded word."""
    return (room - len(_BEGIN + _END)) // 4 * 3


def _encoded_word(content: bytes) -> str:
    return _BEGIN + b2a_base64(content, newline=False).decode() + _END
