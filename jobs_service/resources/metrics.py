"""/metrics."""

import falcon
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class Metrics:
    """/metrics, in the format the scraper asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            encode, resp.content_type = choose_encoder(req.accept)
        except (TypeError, ValueError):  # it takes any version in Accept for a number
            encode, resp.content_type = choose_encoder("text/plain")
        resp.data = encode(self.registry)
