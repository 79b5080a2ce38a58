"""Entity tags (RFC 9110, section 8.8.3): a strong one is a hash of the representation's bytes."""

import hashlib
import re

_TAG = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


def etag_of(body: bytes) -> str:
    """Return the strong entity tag of these bytes, with its quotes."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(header: str, etag: str) -> bool:
    """Tell whether `If-Match` names this tag, by the strong comparison: a weak tag names none."""
    if header.strip() == "*":
        return True
    return etag in _TAG.findall(header)
