"""Entity tags (RFC 9110, section 8.8.3), and the conditions of requests that name them (sections 13.1.1 and 13.1.2)."""

import hashlib
import re
from http import HTTPStatus

from falcon.asgi import Request, Response

from jobs_service.api.operations import Header

_EXAMPLE = '"9b2f6c1d9e8a410197a3f25c1e7d3a9b"'

ETAG = Header("ETag", "The entity tag of this representation.", example=_EXAMPLE)
IF_NONE_MATCH = Header(
    "If-None-Match", "Entity tags, or `*`: with the present one, the answer is 304 without a body.", example=_EXAMPLE
)

#: An entity tag: its characters are all visible ones but the quotation mark, and those beyond ASCII.
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def etag_of(body: bytes) -> str:
    """Return the strong entity tag of a representation: equal bytes have equal tags."""
    return f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'


def matches(header: str, etag: str, *, is_weak: bool = False) -> bool:
    """Tell whether a list of entity tags, or `*`, has the strong tag `etag`.

    `If-Match` compares strongly: a tag that begins with W/ never matches. `If-None-Match` compares weakly (`is_weak`).
    A header that is not such a list matches nothing, so `If-Match` then refuses, and `If-None-Match` gets the answer.
    """
    if header.strip(" \t") == "*":
        return True
    if _TAG.sub("", header).strip(" \t,"):
        return False
    tags = _TAG.findall(header)
    return etag in ([tag.removeprefix("W/") for tag in tags] if is_weak else tags)


def show(req: Request, resp: Response, body: bytes) -> None:
    """Answer a GET or HEAD with a representation, or with 304 where the caller has it already."""
    etag = etag_of(body)
    # Falcon's own property would weaken or quote it; a header is sent as it is.
    resp.set_header("ETag", etag)
    if matches(req.get_header("If-None-Match") or "", etag, is_weak=True):
        resp.status = f"{HTTPStatus.NOT_MODIFIED.value} {HTTPStatus.NOT_MODIFIED.phrase}"
    else:
        resp.data = body
