"""/metrics."""

import ipaddress
from http import HTTPStatus

import falcon
from falcon.asgi import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from jobs_service.api.operations import Answer, Content, operation
from jobs_service.api.threads import Threads

_EXAMPLE = """\
# HELP jobs_submitted_total Jobs submitted.
# TYPE jobs_submitted_total counter
jobs_submitted_total{queue="default",type="csv-generation",source="api"} 4711.0
"""
_OPEN_METRICS = {"application/openmetrics-text": Content(str, _EXAMPLE + "# EOF\n")}

#: The headers that proxies add. Such a request comes from outside, whatever the proxy's own address is.
_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Metrics:
    """/metrics, in the format that the scraper accepts."""

    def __init__(self, registry: CollectorRegistry, threads: Threads, *, everyone: bool = False) -> None:
        """Without `everyone`, only requests from this machine and private networks are answered."""
        self.registry = registry
        self.threads = threads
        self.everyone = everyone

    @operation(
        id="get_metrics",
        summary="Metrics for Prometheus",
        tag="health",
        scope=None,
        query=None,
        answers={
            HTTPStatus.OK: Answer("The metrics.", str, "text/plain", example=_EXAMPLE, other_contents=_OPEN_METRICS)
        },
        problems=("forbidden", "too_busy"),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        if not (self.everyone or is_internal(req)):
            raise falcon.HTTPForbidden(
                description="Metrics are only served to private networks, and not through a proxy, "
                "unless METRICS_ACCESS is everyone."
            )
        try:
            encode, resp.content_type = choose_encoder(req.accept)
        except (TypeError, ValueError):  # it expects every version in Accept to be a number
            encode, resp.content_type = choose_encoder("text/plain")
        resp.data = await self.threads.run(encode, self.registry)

    on_head = on_get


def is_internal(req: Request) -> bool:
    """Tell whether a request comes directly from this machine or a private network."""
    if any(req.get_header(name) for name in _PROXIED):
        return False
    try:
        address = ipaddress.ip_address(req.remote_addr)
    except ValueError:  # a Unix socket has no address
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    # is_global is also false for the shared addresses behind a provider's NAT (RFC 6598), which no internet host has.
    return not (mapped or address).is_global
