"""Validates e-mail addresses: exactly one mailbox, in a form that no parser can read as two.

Stricter than RFC 5321: no display name, no comment, no quoted local part, no address in brackets. The standard
library's parser tries to repair invalid input, and so turns "a@b.example, c@d.example" into two recipients.
"""

import re
import unicodedata

#: RFC 5321 section 4.5.3.1, in bytes. A path of 256 has room for 254 between its angle brackets.
MAX_LOCAL_BYTES = 64
MAX_ADDRESS_BYTES = 254

#: RFC 5321's dot-string, with RFC 6531's characters beyond ASCII.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def problem_with(address: str) -> str | None:
    """Return why this is not one valid address, without quoting it, or None if it is."""
    local, _, domain = address.rpartition("@")
    if not _LOCAL.fullmatch(local) or not all(map(_is_visible, local)):
        return "expected exactly one address, such as name@example.com"
    if not domain.isascii():
        return "expected the domain in its ASCII form, which begins with xn--"
    if not _DOMAIN.fullmatch(domain):
        return "expected exactly one address, such as name@example.com"
    if "=?" in local:  # begins an encoded word, which Python before 3.11.10 decodes into headers (CVE-2024-6923)
        return 'expected an address without "=?"'
    if len(local.encode()) > MAX_LOCAL_BYTES or len(address.encode()) > MAX_ADDRESS_BYTES:
        return f"expected at most {MAX_LOCAL_BYTES} bytes before the @ and {MAX_ADDRESS_BYTES} bytes in total"
    return None


def _is_visible(character: str) -> bool:
    """Return False for control and format characters, lone surrogates and all kinds of spaces."""
    return unicodedata.category(character)[0] not in "CZ"
