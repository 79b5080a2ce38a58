"""A strict reader of mail headers that shares no code with their writer: what is not by the standards is an error."""

import base64
import re

#: RFC 2047, section 2. Ours are all UTF-8 in base64.
WORD = re.compile(r"=\?utf-8\?b\?(?P<content>[A-Za-z0-9+/]+={0,2})\?=")
LONGEST_WORD, LONGEST_LINE = 75, 76
#: RFC 5322, section 2.1.1.
LONGEST_PLAIN_LINE = 998


def lines(content: bytes, name: str) -> list[str]:
    """Return the lines of the one header of this name, the name left out of the first."""
    head = content.partition(b"\r\n\r\n")[0].decode()
    found = re.findall(rf"(?:^|\r\n)(?i:{name}): ?([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", head)
    assert 1 == len(found), f"{len(found)} headers are called {name}"
    return found[0].split("\r\n")


def text(content: bytes, name: str) -> str:
    """Return what the header says, every rule about its form having been checked."""
    first, *others = lines(content, name)
    assert all(line.strip() for line in others), "a line of blanks alone"
    _check_lengths([f"{name}: {first}", *others])
    return decoded("".join([first, *others]))


def decoded(unfolded: str) -> str:
    """Decode the encoded words: whole characters in each, and the blanks between two of them dropped."""
    joined = re.sub(r"(?<=\?=)[ \t]+(?==\?)", "", unfolded)
    result = WORD.sub(lambda word: base64.b64decode(word["content"], validate=True).decode(), joined)
    assert "=?" not in WORD.sub("", joined), "what looks like an encoded word is none"
    return result


def _check_lengths(whole_lines: list[str]) -> None:
    for line in whole_lines:
        words = re.findall(r"=\?[^ ]*\?=", line)
        assert all(len(word) <= LONGEST_WORD for word in words), line
        assert len(line) <= (LONGEST_LINE if words else LONGEST_PLAIN_LINE), line
        assert line.isascii(), line
