"""/metrics."""

import falcon
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class Metrics:
    """/metrics, in the format the scraper asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        encode, resp.content_type = choose_encoder(req.accept)
        resp.data = encode(self.registry)
