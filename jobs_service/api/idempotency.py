"""The header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header), and answers that are sent again."""

import hashlib
import re

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.operations import Header
from jobs_service.api.request_body import media_type_of
from jobs_service.jobs.idempotency import KeptAnswer, Key

NAME = "Idempotency-Key"

MAX_LENGTH = 255

HEADER = Header(
    NAME,
    "Names this request, so that it can be sent again: it is carried out once, and answered in the same way each time. "
    "A quoted string (RFC 9651) or a bare token of at most 255 characters.",
    example='"8e03978e-40d5-43dd-bc93-6894a57f9324"',
)
REPLAYED = Header(
    "Idempotent-Replayed", "`true`: this is the answer to an earlier request with the key.", example="true"
)

#: The codes of the problems of an operation that takes the header.
PROBLEMS = ("idempotency_key_invalid", "idempotency_key_in_flight", "idempotency_key_reused")

#: A String of structured fields (RFC 9651, section 3.3.3), whose parameters are ignored as section 3.1.2 demands.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]){1,510})"(?: *; *[a-z*][a-z0-9_.*-]*(?:=[!#-+\--:<-~]+)?)*')
#: What clients send that do not quote. A comma or semicolon would have a meaning in a structured field.
_BARE = re.compile(r"[!#-+\--:<-~]+")


def key_of(req: Request, raw: bytes) -> Key | None:
    """Return the key of a request with this body, None if it has none. Raises 400 for one that is not valid."""
    value = req.get_header(NAME)
    return None if value is None else Key(req.context.caller.name, req.path, parsed(value), fingerprint(req, raw))


def parsed(value: str) -> str:
    """Return the key in the value of a header. Quoted and bare, the same characters are the same key."""
    value = value.strip()
    if quoted := _QUOTED.fullmatch(value):
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        text = value if _BARE.fullmatch(value) else ""
    if not 1 <= len(text) <= MAX_LENGTH:
        raise falcon.HTTPBadRequest(
            title="idempotency_key_invalid",
            description=f'Send Idempotency-Key once, as a quoted string of 1 to {MAX_LENGTH} characters: "8e03978e-…".',
        )
    return text


def fingerprint(req: Request, raw: bytes) -> bytes:
    """Return what a request with the same key must have in common with this one: parameters, media type and body."""
    digest = hashlib.sha256(f"{req.query_string}\n{media_type_of(req)}\n".encode())
    digest.update(raw)
    return digest.digest()


def send(resp: Response, answer: KeptAnswer, *, is_replayed: bool) -> None:
    """Send an answer, the same bytes each time."""
    resp.status = falcon.code_to_http_status(answer.status)
    resp.data = answer.body
    if answer.location is not None:
        resp.set_header("Location", answer.location)
    if is_replayed:
        resp.set_header(REPLAYED.name, "true")
