"""No pattern of the service takes longer than the text it is matched with deserves (ReDoS)."""

import importlib
import multiprocessing
import pkgutil
import re

import msgspec

import actors
import jobs_service
from jobs_service.jobs.job_types import load
from jobs_service.mail import mailer

#: What ends a process when it is imported, or becomes one.
NOT_IMPORTED = {"jobs_service.__main__", "jobs_service.asgi", "jobs_service.api.gunicorn_config"}
#: The longest header of a request; a reply of a mail server is shorter.
LENGTH = 8_190
#: Of settings, which the operator writes.
TRUSTED = {mailer._SENDER.pattern}
#: Seconds for all patterns, on whatever machine: a pattern that backtracks takes years.
PATIENCE = 300

#: What patterns repeat: of these, texts are built that match for long and not at the end.
PIECES = ("a", "0", "A", " ", ".", "-", "_", "=", "/", ",", "@", "a.", "a-", "0.", "=?", "?=", "0e", "a/", "{a}", "<a>")
PREFIXES = ("", "X-", "https://", "mailto:", "output/", "(", "[", "=?", "00-", "bytes=", "a@", '"')
SUFFIXES = ("", "!", "\n", "\0", "é", "=", "?=x", "@")


def patterns():
    """Return every pattern of the service's modules, and of the types of payloads."""
    found = set()
    for package in (jobs_service, actors):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in NOT_IMPORTED:
                values = vars(importlib.import_module(module.name)).values()
                found |= {value.pattern for value in values if isinstance(value, re.Pattern)}
    _, components = msgspec.json.schema_components([form for kind in load() for form in (*kind.forms, kind.payload)])
    found |= set(of_schemas(components))
    return sorted(pattern for pattern in found - TRUSTED if isinstance(pattern, str))


def of_schemas(node):
    """Yield the patterns in JSON Schemas."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == "pattern" and isinstance(value, str))
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from of_schemas(item)


def texts():
    for piece in PIECES:
        for prefix in PREFIXES:
            yield from (prefix + piece * (LENGTH // len(piece)) + suffix for suffix in SUFFIXES)


def match(sources):
    """Try all patterns with all texts."""
    for source in sources:
        pattern = re.compile(source)
        for text in texts():
            pattern.match(text)
            pattern.fullmatch(text)


def ends(sources, seconds):
    """Tell whether the patterns are done before a process has to be ended."""
    process = multiprocessing.get_context("fork").Process(target=match, args=(sources,))
    process.start()
    process.join(seconds)
    is_alive = process.is_alive()
    process.kill()
    process.join()
    return not is_alive and process.exitcode == 0


def test_no_pattern_backtracks():
    found = patterns()

    assert len(found) > 15
    assert ends(found, PATIENCE)


def test_a_pattern_that_backtracks_would_be_noticed():
    assert not ends([r"(a+)+$"], 1)
