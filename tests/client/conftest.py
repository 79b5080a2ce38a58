"""Both clients, in front of a real API and of the one in memory."""

import pytest
from blocking import Blocking, runner

from jobs_service.client import AsyncClient, Client, FakeApi


@pytest.fixture
def api(service):
    """A real API and a worker, which run csv-generation and the job types of the tests."""
    service.start_api()
    service.start_worker()
    return service


@pytest.fixture(params=["synchronous", "asynchronous"])
def open_client(request):
    """Make a client of the address, of one kind or the other. It is closed after the test."""
    opened, loop = [], runner()

    def open_client(url, **named):
        if request.param == "synchronous":
            opened.append(Client(url, **named))
        else:
            opened.append(Blocking(AsyncClient(url, **named), loop))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()
    loop.close()


@pytest.fixture
def client(open_client, api):
    return open_client(f"http://127.0.0.1:{api.api_port}")


@pytest.fixture
def fake_api():
    return FakeApi()
