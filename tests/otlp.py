"""A stand-in for an OpenTelemetry collector: takes spans over HTTP and keeps them."""

import gzip
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Received:
    """A span as it arrived. Ids are hexadecimal; `links` are (trace id, span id)."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list
    attributes: dict
    is_error: bool
    #: Everything there is, for a search.
    text: str


class Receiver:
    """Listens as long as the `with` block lasts."""

    def __enter__(self):
        self.spans = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.spans))
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def named(self, name, **attributes):
        return [s for s in self.spans if s.name == name and attributes.items() <= s.attributes.items()]


def _handler(spans):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    return Handler


def _spans(request):
    for resource in request.resource_spans:
        service = _plain(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    service,
                    span.name,
                    Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    _plain(span.attributes),
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    str(span),
                )


def _plain(attributes):
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
