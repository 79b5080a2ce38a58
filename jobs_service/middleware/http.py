"""Middleware around requests: their duration."""

import time
from typing import Any

import falcon

from jobs_service.metrics.definitions import HTTP_DURATION


class RequestMetrics:
    """Observes every answer under its route template: a raw path would make a series for each job."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:  # noqa: ARG002
        req.context.started = time.perf_counter()

    def process_response(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        resource: Any,  # noqa: ANN401, ARG002
        req_succeeded: bool,  # noqa: ARG002
    ) -> None:
        route = req.uri_template or "_UNMATCHED"
        method = req.method if req.method in falcon.HTTP_METHODS else "_OTHER"
        # Falcon answers a method it does not know before it asks any middleware.
        seconds = time.perf_counter() - getattr(req.context, "started", time.perf_counter())
        HTTP_DURATION.labels(method, route, resp.status_code).observe(seconds)
