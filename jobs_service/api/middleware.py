"""Middleware around requests: who asks, how many there are, and how long an answer takes."""

import re
import time
from typing import Any

import falcon

from jobs_service.jobs.correlation import Origin
from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import HTTP_ACTIVE, HTTP_DURATION
from jobs_service.observability import logs, tracing

#: A host and perhaps a port (RFC 3986, section 3.2.2); nothing where the target has no authority.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(:\d*)?")


class RequestContext:
    """Takes over or makes the request id, echoes it, and binds it and the trace id to every log line of the request."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        # A trace goes on in this request's own span, if there is one.
        traceparent = tracing.current() or req.get_header("traceparent")
        req.context.origin = Origin.of_request(req.get_header("X-Request-ID"), traceparent)
        resp.set_header("X-Request-ID", req.context.origin.request_id)
        logs.bind_anew(**req.context.origin.fields)

    def process_response(
        self,
        req: falcon.Request,  # noqa: ARG002
        resp: falcon.Response,  # noqa: ARG002
        resource: Any,  # noqa: ANN401, ARG002
        req_succeeded: bool,  # noqa: ARG002
    ) -> None:
        logs.bind_anew()


class HttpRules:
    """What HTTP asks of every request and answer, whatever the resource."""

    def __init__(self, prefix: str) -> None:
        """`prefix` is the path below which a proxy serves the API and which it takes off: links have it again."""
        self.prefix = prefix

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:  # noqa: ARG002
        """Refuse a request of HTTP/1.1 that does not name one host (RFC 9112, section 3.2)."""
        # WSGI's own name for it (PEP 3333); Falcon shows it as `root_path`.
        req.env["SCRIPT_NAME"] = self.prefix
        host = req.get_header("Host")
        if host is None and req.env.get("SERVER_PROTOCOL") == "HTTP/1.0":
            return
        if host is None or not _HOST.fullmatch(host):
            raise falcon.HTTPBadRequest(description="Send one Host header that names the host.")

    def process_response(
        self,
        req: falcon.Request,  # noqa: ARG002
        resp: falcon.Response,
        resource: Any,  # noqa: ANN401, ARG002
        req_succeeded: bool,  # noqa: ARG002
    ) -> None:
        # Every answer tells of a moment. A cache between client and service would tell of it for ever.
        if resp.get_header("Cache-Control") is None:
            resp.set_header("Cache-Control", "no-store")


class RequestMetrics:
    """Observes every answer under its route template: a raw path would make a series for each job."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:  # noqa: ARG002
        req.context.started = time.perf_counter()
        HTTP_ACTIVE.labels().inc()

    def process_response(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        resource: Any,  # noqa: ANN401, ARG002
        req_succeeded: bool,  # noqa: ARG002
    ) -> None:
        # Falcon answers a method it does not know before it asks any middleware.
        now = time.perf_counter()
        started = getattr(req.context, "started", None)
        if started is not None:
            HTTP_ACTIVE.labels().dec()
        route = req.uri_template or "_UNMATCHED"
        method = req.method if req.method in falcon.HTTP_METHODS else "_OTHER"
        observations.add(HTTP_DURATION.labels(method, route, resp.status_code), now - (started or now))
