"""`python -m jobs_service keys`: creates, lists and revokes API keys."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from jobs_service.api.access import keys
from jobs_service.api.callers import Scope
from jobs_service.config import Settings
from jobs_service.database.connection import Database, open_database

_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}

#: Days for which a key may be valid at most, unless it never expires: ten years.
MAX_DAYS = 3_660


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `keys` to its parser. No secret is ever one of them: other users can read those."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="create a key, and print it: the only time that it can be seen")
    create.add_argument("name", metavar="NAME", help="who will use it; it is logged, and keys may share a name")
    create.add_argument("--scope", action="append", required=True, choices=[*map(str, Scope)], dest="scopes")
    create.add_argument(
        "--expires", type=_duration, metavar="90d", help="in how many days, hours (h) or minutes (m) it expires"
    )
    create.add_argument("--rate", type=_rate, metavar="N", help="requests per second, instead of RATE_LIMIT_PER_SECOND")
    actions.add_parser("list", help="list all keys, without their secrets")
    revoke = actions.add_parser("revoke", help="revoke a key")
    revoke.add_argument("prefix", metavar="PREFIX", help="the part of the key before the dot")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Create, list or revoke API keys. Running processes obey within seconds."""
    database = open_database(settings, connections=1)
    try:
        return _ACTIONS[arguments.action](database, arguments)
    finally:
        database.discard()


def _create(database: Database, arguments: argparse.Namespace) -> int:
    scopes = sorted({Scope(scope) for scope in arguments.scopes})
    key = keys.create(database, arguments.name, scopes, expires_seconds=arguments.expires, rate_limit=arguments.rate)
    # Alone on stdout, so that a script can keep it.
    print(key)
    note = f"created for {arguments.name}, may {', '.join(scopes)}. This is the only time that the key is shown"
    print(f"keys: {note}. From now on every request needs a key", file=sys.stderr)
    return 0


def _list(database: Database, arguments: argparse.Namespace) -> int:  # noqa: ARG001
    for line in _aligned([_HEAD, *map(_row, keys.listing(database))]):
        print(line)
    return 0


def _revoke(database: Database, arguments: argparse.Namespace) -> int:
    # Somebody may pass the whole key.
    prefix = arguments.prefix.partition(".")[0]
    name = keys.revoke(database, prefix)
    print(f"keys: revoked a key of {name}; running processes refuse it within seconds")
    return 0


_ACTIONS: dict[str, Callable[[Database, argparse.Namespace], int]] = {
    "create": _create,
    "list": _list,
    "revoke": _revoke,
}

_HEAD = ("prefix", "name", "state", "scopes", "rate", "created", "expires", "last used")


def _row(key: keys.ListedKey) -> tuple[str, ...]:
    rate = str(key.rate_limit or "-")
    dates = (_date(key.created_at), _date(key.expires_at), _date(key.last_used_at))
    return (key.prefix, key.name, key.state, ",".join(key.scopes), rate, *dates)


def _date(when: datetime | None) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%MZ}" if when else "-"


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _duration(text: str) -> int:
    """Return the seconds of a text such as 90d."""
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= MAX_DAYS * _SECONDS["d"]:
        raise argparse.ArgumentTypeError(f"expected minutes, hours or days, up to {MAX_DAYS}d, such as 90d")
    return seconds


def _rate(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError("expected requests per second from 1 to 999999")
    return int(text)
