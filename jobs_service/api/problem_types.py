"""The problem types (RFC 9457): the status of each `code`, and what it means. docs/errors.md has a section for each."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple


class ProblemType(NamedTuple):
    """What all problems with one `code` have in common."""

    status: HTTPStatus
    #: One sentence for the OpenAPI document.
    meaning: str


PROBLEM_TYPES: Mapping[str, ProblemType] = {
    "bad_request": ProblemType(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP."),
    "malformed_body": ProblemType(HTTPStatus.BAD_REQUEST, "The body is not JSON, or ambiguous JSON."),
    "unauthenticated": ProblemType(HTTPStatus.UNAUTHORIZED, "The request has no API key, and needs one."),
    "invalid_key": ProblemType(HTTPStatus.UNAUTHORIZED, "There is no such API key, or it was revoked."),
    "key_expired": ProblemType(HTTPStatus.UNAUTHORIZED, "The API key has expired."),
    "scope_missing": ProblemType(HTTPStatus.FORBIDDEN, "The API key lacks the scope that `detail` names."),
    "cross_origin": ProblemType(HTTPStatus.FORBIDDEN, "A page of another site may change nothing without a key."),
    "idempotency_key_invalid": ProblemType(HTTPStatus.BAD_REQUEST, "The Idempotency-Key is not valid."),
    "forbidden": ProblemType(HTTPStatus.FORBIDDEN, "This is only served to private networks."),
    "not_found": ProblemType(HTTPStatus.NOT_FOUND, "There is no such route."),
    "job_not_found": ProblemType(HTTPStatus.NOT_FOUND, "There is no job with this id."),
    "job_type_not_found": ProblemType(HTTPStatus.NOT_FOUND, "There is no job type with this name."),
    "queue_not_found": ProblemType(HTTPStatus.NOT_FOUND, "No job type of this installation has this queue."),
    "dead_letter_not_found": ProblemType(HTTPStatus.NOT_FOUND, "No failed job has this id."),
    "error_group_not_found": ProblemType(HTTPStatus.NOT_FOUND, "No dead letter belongs to this group."),
    "redrive_not_found": ProblemType(HTTPStatus.NOT_FOUND, "There is no redrive with this id."),
    "discard_not_found": ProblemType(HTTPStatus.NOT_FOUND, "There is no discard of many with this id."),
    "cancellation_not_found": ProblemType(HTTPStatus.NOT_FOUND, "There is no cancellation with this id."),
    "output_not_found": ProblemType(HTTPStatus.NOT_FOUND, "The job has no such file."),
    "method_not_allowed": ProblemType(HTTPStatus.METHOD_NOT_ALLOWED, "`Allow` lists the methods of this route."),
    "request_timeout": ProblemType(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time."),
    "not_finished": ProblemType(HTTPStatus.CONFLICT, "The job is not finished, so it has no output yet."),
    "wrong_status": ProblemType(HTTPStatus.CONFLICT, "The job's status does not allow this."),
    "queue_pause_changed": ProblemType(HTTPStatus.CONFLICT, "The queue's pause is a later one than the request says."),
    "idempotency_key_in_flight": ProblemType(
        HTTPStatus.CONFLICT, "A request with this Idempotency-Key is being carried out."
    ),
    "redrive_finished": ProblemType(HTTPStatus.CONFLICT, "The redrive is completed already."),
    "discard_finished": ProblemType(HTTPStatus.CONFLICT, "The discard is completed already."),
    "cancellation_finished": ProblemType(HTTPStatus.CONFLICT, "The cancellation is completed already."),
    "output_gone": ProblemType(HTTPStatus.GONE, "The job wrote this file, and it was deleted since."),
    "length_required": ProblemType(HTTPStatus.LENGTH_REQUIRED, "A body needs a Content-Length."),
    "precondition_failed": ProblemType(
        HTTPStatus.PRECONDITION_FAILED, "This is not any more what the condition says; nothing was changed."
    ),
    "content_too_large": ProblemType(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large."),
    "uri_too_long": ProblemType(HTTPStatus.REQUEST_URI_TOO_LONG, "The request line is too long."),
    "unsupported_media_type": ProblemType(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body has another Content-Type or Content-Encoding than is accepted."
    ),
    "range_not_satisfiable": ProblemType(
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The range begins behind the end; `Content-Range` has the size."
    ),
    "invalid_request": ProblemType(
        HTTPStatus.UNPROCESSABLE_ENTITY, "A field or a parameter is wrong; `errors` names it."
    ),
    "idempotency_key_reused": ProblemType(
        HTTPStatus.UNPROCESSABLE_ENTITY, "This Idempotency-Key was sent before with another request."
    ),
    "precondition_required": ProblemType(
        HTTPStatus.PRECONDITION_REQUIRED, "The request needs `If-Match` with the job's `ETag`."
    ),
    "headers_too_large": ProblemType(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large."),
    "not_implemented": ProblemType(HTTPStatus.NOT_IMPLEMENTED, "The body has a transfer coding other than chunked."),
    "rate_limited": ProblemType(HTTPStatus.TOO_MANY_REQUESTS, "The caller sends more requests than it may."),
    "queue_full": ProblemType(
        HTTPStatus.TOO_MANY_REQUESTS, "The queue has as many waiting jobs as it may; nothing was written."
    ),
    "internal_error": ProblemType(HTTPStatus.INTERNAL_SERVER_ERROR, "A bug in the service."),
    "database_unavailable": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer; the request is not confirmed."
    ),
    "database_not_migrated": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "The database is not migrated to this version; nothing was written."
    ),
    "output_store_unavailable": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "The store of the files does not answer; nothing is wrong with the job."
    ),
    "too_busy": ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests wait; nothing was written."),
    "too_many_unfinished_requests": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests are arriving at the same time."
    ),
}

#: The page with a section for each code, below the API's root.
PAGE = "/docs/errors"


def uri(code: str, root_path: str = "") -> str:
    """Return the `type` of a problem: a reference to its section, relative to the API's address."""
    return f"{root_path}{PAGE}#{code}"
