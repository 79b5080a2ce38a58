"""How a download reads: piece by piece, as long as somebody takes them, within a limit of memory."""

import asyncio
from datetime import UTC, datetime

import pytest
import structlog

from jobs_service.api.resources import outputs as downloads
from jobs_service.api.resources.outputs import LEAST_PIECE_BYTES, MOST_PIECE_BYTES, PIECES_BYTES, JobOutput
from jobs_service.api.threads import Threads
from jobs_service.errors import Unavailable
from jobs_service.outputs.contract import Output, OutputChanged

SIZE = 10 * MOST_PIECE_BYTES
OUTPUT = Output("a.bin", SIZE, '"a"', datetime.now(UTC))


class Store:
    """Notes what is read of its file, and fails at a place of it."""

    def __init__(self, *, fails_at=SIZE, error=None):
        self.reads = []
        self.fails_at, self.error = fails_at, error

    def read_piece(self, output, start, length):
        assert output is OUTPUT
        if start >= self.fails_at:
            raise self.error
        self.reads.append((start, length))
        return bytes(length)


def resource(store):
    return JobOutput(None, None, store, Threads(1))


def lengths(made, wanted=range(SIZE), is_open=lambda: True):
    async def collect():
        return [len(piece) async for piece in made._pieces(OUTPUT, wanted, is_open)]

    return asyncio.run(collect())


def test_a_file_is_read_to_its_end_and_no_further():
    store = Store()

    assert [MOST_PIECE_BYTES] * 10 == lengths(resource(store))
    assert [(number * MOST_PIECE_BYTES, MOST_PIECE_BYTES) for number in range(10)] == store.reads


def test_only_the_part_that_is_asked_for_is_read():
    store = Store()

    assert [7] == lengths(resource(store), range(3, 10))
    assert [(3, 7)] == store.reads


def test_nothing_more_is_read_for_a_client_that_has_gone():
    store = Store()

    assert [MOST_PIECE_BYTES] * 2 == lengths(resource(store), is_open=lambda: len(store.reads) < 2)
    assert 2 == len(store.reads)


@pytest.mark.parametrize("error", [OutputChanged("replaced"), Unavailable("away")])
def test_an_error_ends_the_download_early_and_is_logged(error):
    with structlog.testing.capture_logs() as lines:
        sent = lengths(resource(Store(fails_at=MOST_PIECE_BYTES, error=error)))

    assert [MOST_PIECE_BYTES] == sent
    assert [("A download ended early", MOST_PIECE_BYTES)] == [(line["event"], line["sent"]) for line in lines]


def test_the_more_downloads_there_are_the_smaller_are_their_pieces(monkeypatch):
    made = resource(Store())
    for count in (1, 64, 100, 512, 10_000):
        made._downloads = count
        piece = made._piece_bytes()
        assert LEAST_PIECE_BYTES <= piece <= MOST_PIECE_BYTES
        assert piece * count <= PIECES_BYTES or piece == LEAST_PIECE_BYTES
    monkeypatch.setattr(downloads, "MOST_PIECE_BYTES", LEAST_PIECE_BYTES)
    lengths(made)
    assert 10_000 == made._downloads
