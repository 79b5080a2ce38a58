"""Middleware for all requests: request ids, rules of HTTP, and metrics."""

import re
import time
from typing import Any

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.callers import ANONYMOUS, CALLER
from jobs_service.api.security_headers import CONTENT_SECURITY_POLICY, SECURITY_HEADERS
from jobs_service.jobs.correlation import Origin
from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import HTTP_ACTIVE, HTTP_DURATION
from jobs_service.observability import logs, tracing

#: A host and an optional port (RFC 3986, section 3.2.2); empty if the request target has no authority.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(:\d*)?")

#: The route of a request that matches none.
UNMATCHED = "_UNMATCHED"


class RequestContext:
    """Reads or creates the request id, returns it in a header, and adds it and the trace id to all log lines."""

    async def process_request(self, req: Request, resp: Response) -> None:
        traceparent = req.get_header("traceparent")
        req.context.span = tracing.begin_request(req.method, req.path, traceparent)
        # With tracing enabled, this request's own span is the parent; otherwise that of the client.
        traceparent = tracing.current() or traceparent
        req.context.origin = Origin.of_request(req.get_header("X-Request-ID"), traceparent)
        req.context.caller = ANONYMOUS
        resp.set_header("X-Request-ID", req.context.origin.request_id)
        logs.bind_anew(**req.context.origin.fields)

    async def process_response(
        self,
        req: Request,
        resp: Response,
        resource: Any,  # noqa: ANN401, ARG002
        req_succeeded: bool,  # noqa: ARG002
    ) -> None:
        # Falcon answers an unknown method without calling `process_request`.
        tracing.end_request(getattr(req.context, "span", None), req.uri_template or UNMATCHED, resp.status_code)
        logs.bind_anew()


class HttpRules:
    """Rules of HTTP that apply to every request and response."""

    def __init__(self, prefix: str) -> None:
        """`prefix` is the path under which a proxy serves the API. The proxy removes it; links must include it."""
        self.prefix = prefix

    async def process_request(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Refuse an HTTP/1.1 request that does not have exactly one valid Host (RFC 9112, section 3.2)."""
        req.scope["root_path"] = self.prefix
        host = req.get_header("Host")
        if host is None and req.scope["http_version"] == "1.0":
            return
        if host is None or not _HOST.fullmatch(host):
            raise falcon.HTTPBadRequest(description="Send exactly one Host header with a valid host name.")

    async def process_response(
        self,
        req: Request,  # noqa: ARG002
        resp: Response,
        resource: Any,  # noqa: ANN401, ARG002
        req_succeeded: bool,  # noqa: ARG002
    ) -> None:
        # Every response is about the present state, so a cache between client and service must not keep it.
        if resp.get_header("Cache-Control") is None:
            resp.set_header("Cache-Control", "no-store")
        own = resp.get_header(CONTENT_SECURITY_POLICY)
        resp.set_headers(SECURITY_HEADERS)
        if own is not None:
            resp.set_header(CONTENT_SECURITY_POLICY, own)


class RequestMetrics:
    """Measures every request by its route template, since the raw path would make a series per job."""

    async def process_request(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        req.context.started = time.perf_counter()
        if CALLER in req.scope:
            return  # a part of a request of the console, which is measured itself
        HTTP_ACTIVE.labels().inc()

    async def process_response(
        self,
        req: Request,
        resp: Response,
        resource: Any,  # noqa: ANN401, ARG002
        req_succeeded: bool,  # noqa: ARG002
    ) -> None:
        if CALLER in req.scope:
            return
        # Falcon answers an unknown method without calling `process_request`.
        now = time.perf_counter()
        started = getattr(req.context, "started", None)
        if started is not None:
            HTTP_ACTIVE.labels().dec()
        route = req.uri_template or UNMATCHED
        method = req.method if req.method in falcon.HTTP_METHODS else "_OTHER"
        observations.add(HTTP_DURATION.labels(method, route, resp.status_code), now - (started or now))
