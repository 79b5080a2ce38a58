"""Answers errors as problem details (RFC 9457): the one place that knows the status of each of our errors."""

from http import HTTPStatus
from typing import Any

import falcon
import msgspec
from falcon.asgi import App, Request, Response
from structlog.stdlib import get_logger

from jobs_service.api import problem_types
from jobs_service.errors import (
    DatabaseUnavailable,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidBatch,
    InvalidRequest,
    MalformedBody,
    QueueFull,
    SchemaUnavailable,
    TooBusy,
    Unavailable,
    ValueRefused,
)
from jobs_service.metrics.catalogue import REJECTIONS

log = get_logger(module=__name__)

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER_SECONDS = 2


def install(app: "App[Any, Any]") -> None:
    """Answer every error of this app as a problem. Of two handlers for an error, falcon takes the more specific."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _http_error)
    app.add_error_handler(ValueRefused, _value_refused)
    app.add_error_handler(DatabaseUnavailable, _database_unavailable)
    app.add_error_handler(SchemaUnavailable, _not_migrated)
    app.add_error_handler(TooBusy, _too_busy)
    app.add_error_handler(QueueFull, _queue_full)
    app.add_error_handler(Unavailable, _output_store_unavailable)
    app.add_error_handler(InvalidRequest, _invalid_request)
    app.add_error_handler(InvalidBatch, _invalid_batch)
    app.add_error_handler(IdempotencyKeyInFlight, _key_in_flight)
    app.add_error_handler(IdempotencyKeyReused, _key_reused)


async def _invalid_request(req: Request, resp: Response, error: InvalidRequest, params: object) -> None:  # noqa: ARG001
    malformed = isinstance(error, MalformedBody)
    status = HTTPStatus.BAD_REQUEST if malformed else HTTPStatus.UNPROCESSABLE_ENTITY
    problem = {"pointer": error.pointer, "detail": error.detail}
    code = "malformed_body" if malformed else "invalid_request"
    _answer(req, resp, status, code, _sentence(error), errors=[problem])


async def _invalid_batch(req: Request, resp: Response, error: InvalidBatch, params: object) -> None:  # noqa: ARG001
    pointer, detail = error.problems[0]
    rest = f" {error.invalid} jobs are invalid." if error.invalid > 1 else ""
    problems = [{"pointer": pointer, "detail": detail} for pointer, detail in error.problems]
    sentence = f"{pointer}: {detail}.{rest} No job was submitted."
    _answer(req, resp, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", sentence, errors=problems)


async def _key_in_flight(req: Request, resp: Response, error: IdempotencyKeyInFlight, params: object) -> None:  # noqa: ARG001
    resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
    detail = "A request with this Idempotency-Key is being carried out. Send it again to get its answer."
    _answer(req, resp, HTTPStatus.CONFLICT, "idempotency_key_in_flight", detail)


async def _key_reused(req: Request, resp: Response, error: IdempotencyKeyReused, params: object) -> None:  # noqa: ARG001
    detail = "This Idempotency-Key was sent before with another request. Send this one with a new key."
    _answer(req, resp, HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)


async def _database_unavailable(
    req: Request,
    resp: Response,
    error: DatabaseUnavailable,
    params: object,  # noqa: ARG001
) -> None:
    log.warning("Request refused: PostgreSQL does not answer", path=req.path, error=str(error))
    resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
    detail = "The database does not answer. The request was not confirmed; try again."
    _answer(req, resp, HTTPStatus.SERVICE_UNAVAILABLE, "database_unavailable", detail)


async def _not_migrated(req: Request, resp: Response, error: SchemaUnavailable, params: object) -> None:  # noqa: ARG001
    """Answer where tables or columns are missing, or not open to this role."""
    log.error(
        "The database is not migrated; run: python -m jobs_service migrate", path=req.path, error=str(error).strip()
    )
    resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
    detail = "The database is not migrated to this version yet. Nothing was written; try again."
    _answer(req, resp, HTTPStatus.SERVICE_UNAVAILABLE, "database_not_migrated", detail)


async def _too_busy(req: Request, resp: Response, error: TooBusy, params: object) -> None:  # noqa: ARG001
    """Answer a request that would have had to wait behind too many others."""
    log.warning("Request refused: too many others wait", path=req.path, error=str(error))
    resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
    detail = "Too many requests wait in this process. Nothing was written; try again."
    _answer(req, resp, HTTPStatus.SERVICE_UNAVAILABLE, "too_busy", detail)


async def _queue_full(req: Request, resp: Response, error: QueueFull, params: object) -> None:  # noqa: ARG001
    """Answer a submission to a queue at its limit. Without a log line: clients may send many."""
    resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
    _answer(req, resp, HTTPStatus.TOO_MANY_REQUESTS, "queue_full", str(error))


async def _output_store_unavailable(
    req: Request,
    resp: Response,
    error: Unavailable,
    params: object,  # noqa: ARG001
) -> None:
    """Answer where files cannot be read: the only server beside PostgreSQL that an answer of the API needs."""
    log.warning("Request refused: the store of files cannot be used", path=req.path, error=str(error))
    resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
    detail = "The store of the files cannot be used at present. The job is not affected; try again."
    _answer(req, resp, HTTPStatus.SERVICE_UNAVAILABLE, "output_store_unavailable", detail)


async def _value_refused(req: Request, resp: Response, error: ValueRefused, params: object) -> None:  # noqa: ARG001
    """Answer for a value that passed our own checks, and that PostgreSQL cannot store: the client has to change it."""
    # The message may quote the value.
    log.warning("PostgreSQL refused a value", path=req.path, error_type=type(error.__cause__).__name__)
    detail = "The database cannot store a value of this request."
    _answer(req, resp, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail)


async def _http_error(req: Request, resp: Response, error: falcon.HTTPError, params: object) -> None:  # noqa: ARG001
    for name, value in dict(error.headers or {}).items():
        resp.set_header(name, value)
    status = HTTPStatus(error.status_code)
    code = error.title.lower().replace(" ", "_") if error.title else status.name.lower()
    _answer(req, resp, status, code.removeprefix(f"{status.value}_"), error.description or status.description)


async def _unexpected(req: Request, resp: Response, error: Exception, params: object) -> None:  # noqa: ARG001
    log.error("Unexpected error", path=req.path, method=req.method, exc_info=error)
    detail = "This is a bug in the service. The log has its traceback."
    _answer(req, resp, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)


def _answer(req: Request, resp: Response, status: HTTPStatus, code: str, detail: str, **more: object) -> None:
    resp.status = f"{status.value} {status.phrase}"
    resp.content_type = MEDIA_TYPE
    REJECTIONS.labels(code).inc()
    problem = {"type": problem_types.uri(code, req.root_path), "title": status.phrase, "status": status.value}
    resp.data = msgspec.json.encode(
        {**problem, "detail": detail, "instance": f"{req.root_path}{req.path}", "code": code, **more}
    )


def _sentence(error: InvalidRequest) -> str:
    return f"{error.pointer}: {error.detail}" if error.pointer else error.detail
