"""What the commands that print a report have in common."""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import machine, servers
from bench.errors import Failed
from bench.servers import Servers
from devstack.servers import ServerError

#: Takes the options, the servers and a folder; returns the lines of the report.
Measure = Callable[[argparse.Namespace, Servers, Path], Sequence[str]]


def run(parser: argparse.ArgumentParser, arguments: Sequence[str], measure: Measure) -> int:
    """Measure on servers of its own, and print the lines and the facts about the machine. Return the exit code."""
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, servers.running(Path(folder)) as running:
            facts = {"command": shlex.join([*parser.prog.split(), *arguments]), **machine.describe(running)}
            lines = measure(options, running, Path(folder))
    except (Failed, ServerError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("\n".join([*lines, "", *(f"{name}: {fact}" for name, fact in facts.items())]))
    return 0
