"""What of the guard can be seen from inside: comparisons take the same time, and addresses are read right."""

import ast
import inspect
import math
from hmac import compare_digest

import pytest

from jobs_service.api.access import exposure, keys, known_keys
from jobs_service.api.access.known_keys import Keyring, KnownKey
from jobs_service.api.callers import Caller

KEY = KnownKey("ajs_a", keys.digest("secret"), Caller("a", frozenset()), None, b"", math.inf, False, False)
KEYRING = Keyring({"ajs_a": KEY}, 0.0)


def test_a_key_is_found_by_all_of_it():
    assert KEY is KEYRING.find("ajs_a.secret")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "ajs_a",
        "ajs_a.",
        "ajs_a.secre",
        "ajs_a.secret ",
        "ajs_b.secret",
        ".secret",
        "secret",
        "ajs_a..secret",
        "ajs_a.secret.",
        "AJS_A.secret",
        "x" * 10_000,
        "ajs_a." + "s" * 10_000,
        "\x00",
        "ajs_a.\udcff",
        "ключ.секрет",
    ],
)
def test_nothing_else_is_a_key(text):
    assert KEYRING.find(text) is None


@pytest.mark.parametrize("text", ["ajs_a.secret", "ajs_a.other", "ajs_b.secret", "", "nonsense"])
def test_every_key_is_compared_in_constant_time_whether_its_prefix_exists_or_not(monkeypatch, text):
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    monkeypatch.setattr(known_keys.hmac, "compare_digest", compare)
    KEYRING.find(text)

    assert [(32, 32)] == compared


def test_no_code_compares_hashes_by_itself():
    for module in (known_keys, keys):
        compared = [
            ast.unparse(node)
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Compare)
        ]
        assert compared
        assert not [text for text in compared if "hash" in text or "digest" in text or "secret" in text]


def test_keys_are_long_and_never_the_same():
    class Table:
        def rows(self, *_): ...

        def row(self, *_):
            return ()

    made = {keys.create(Table(), "a", []) for _ in range(100)}

    assert 100 == len({key.partition(".")[0] for key in made})
    assert all(len(key.partition(".")[2]) == 43 for key in made)  # 32 bytes
    assert all(len(key) < known_keys.MAX_CHARACTERS for key in made)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback(host):
    assert exposure.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.0.2.1", "example.com", "localhost.example.com"])
def test_what_other_machines_may_reach(host):
    assert not exposure.is_loopback(host)
