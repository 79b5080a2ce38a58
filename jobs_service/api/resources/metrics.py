"""/metrics."""

import ipaddress

import falcon
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

#: What proxies add: such a request comes from beyond, whatever address the proxy itself has.
_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Metrics:
    """/metrics, in the format the scraper asks for."""

    def __init__(self, registry: CollectorRegistry, *, everyone: bool = False) -> None:
        """Without `everyone`, only the internal network gets an answer: others must not learn what goes on here."""
        self.registry = registry
        self.everyone = everyone

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        if not (self.everyone or is_internal(req)):
            raise falcon.HTTPForbidden(description="Metrics are for the internal network: METRICS_ACCESS.")
        try:
            encode, resp.content_type = choose_encoder(req.accept)
        except (TypeError, ValueError):  # it takes any version in Accept for a number
            encode, resp.content_type = choose_encoder("text/plain")
        resp.data = encode(self.registry)

    on_head = on_get


def is_internal(req: falcon.Request) -> bool:
    """Tell whether a request comes straight from this machine or a private network."""
    if any(req.get_header(name) for name in _PROXIED):
        return False
    try:
        address = ipaddress.ip_address(req.remote_addr)
    except ValueError:  # a Unix socket has no address
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    # Nor has any host of the internet an address that a network shares behind a gateway (RFC 6598).
    return not (mapped or address).is_global
