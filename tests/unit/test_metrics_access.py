"""Who gets an answer from the API's /metrics."""

import falcon.testing
import pytest

from jobs_service.api.resources.metrics import is_internal


@pytest.mark.parametrize(
    ("address", "headers", "internal"),
    [
        ("127.0.0.1", {}, True),
        ("172.18.0.5", {}, True),
        ("10.1.2.3", {}, True),
        ("192.168.1.9", {}, True),
        ("::1", {}, True),
        ("fd00::7", {}, True),
        ("::ffff:10.1.2.3", {}, True),
        ("", {}, True),
        ("100.64.0.9", {}, True),
        ("100.127.255.254", {}, True),
        ("100.128.0.1", {}, False),
        ("8.8.8.8", {}, False),
        ("2600::1", {}, False),
        ("::ffff:8.8.8.8", {}, False),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.1"}, False),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.1"}, False),
        ("10.0.0.1", {"Via": "1.1 proxy"}, False),
    ],
)
def test_internal_is_this_machine_or_a_private_network_and_no_proxy(address, headers, internal):
    request = falcon.testing.create_asgi_req(path="/metrics", headers=headers)
    # A Unix socket has no address.
    request.scope["client"] = (address, 1234) if address else None

    assert internal == is_internal(request)
