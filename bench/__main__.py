"""The command `python -m bench`: reads the options, runs the rounds, prints the table."""

import argparse
import dataclasses
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench import machine, report, rounds, servers, systems
from bench.errors import Failed
from bench.packages import Missing
from bench.rounds import ALL_PHASES, CLIENT_COUNTS, CLIENTS, Plan
from bench.systems import System
from devstack.servers import ServerError

#: What is compared with many clients unless something else is asked for.
OF_CLIENTS = (systems.NODE, systems.OURS)
_READING = f'"against": how many times better {systems.OURS} is; in brackets the worst and the best round'
FULL = Plan()
QUICK = Plan(jobs=60, rounds=1, samples=1, singles=5, quiet_seconds=0.2, idle_seconds=1.0)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        compared, left_out = _systems(options, plan)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, servers.running(Path(folder)) as running:
            command = shlex.join(["python", "-m", "bench", *arguments])
            facts = {"command": command, **machine.describe(running), **_facts(compared, left_out)}
            measured = _measure(compared, plan, running, Path(folder))
    except (Failed, ServerError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started is stopped", file=sys.stderr)
        return 130
    _publish(measured, plan, facts, options.json)
    return 0


def _systems(options: argparse.Namespace, plan: Plan) -> tuple[list[System], dict[str, str]]:
    """Return what is compared, and of what cannot be had the reason why not. Raises `Failed` when nothing is left."""
    if options.metrics:
        return [systems.bare(), systems.ours(), *options.variant], {}
    default = OF_CLIENTS if plan.phases == {CLIENTS} else tuple(systems.SYSTEMS)
    compared, left_out = [], {}
    for name in options.systems or default:
        try:
            compared.append(systems.SYSTEMS[name]())
        except Missing as missing:
            left_out[name] = str(missing)
            print(f"bench: {name} is left out: {missing}", file=sys.stderr)
    if not compared:
        raise Failed("nothing is left to measure")
    return [*compared, *options.variant], left_out


def _facts(compared: Sequence[System], left_out: Mapping[str, str]) -> dict[str, str]:
    versions = {f"versions of {system.name}": system.versions for system in compared if system.versions}
    return versions | {f"left out, {name}": reason for name, reason in left_out.items()}


def _measure(compared: list[System], plan: Plan, running: servers.Servers, folder: Path) -> dict[str, report.Rounds]:
    """Run the rounds in turn, every second one in reverse order, so that a drift affects all systems alike."""
    measured: dict[str, report.Rounds] = {system.name: [] for system in compared}
    began_at = time.monotonic()
    for number in range(1, plan.rounds + 1):
        for system in compared if number % 2 else reversed(compared):

            def say(text: str, place: str = f"round {number}/{plan.rounds}, {system.name}") -> None:
                print(f"{time.monotonic() - began_at:5.0f} s  {place}: {text}", file=sys.stderr, flush=True)

            figures = rounds.measure(system, plan, running, folder / f"{number}-{system.name}", say)
            measured[system.name].append(figures)
    return measured


def _publish(measured: Mapping[str, report.Rounds], plan: Plan, facts: Mapping[str, str], path: Path | None) -> None:
    table = report.table(measured, plan.phases, systems.OURS)
    print("\n".join(["", table, "", *(f"{name}: {fact}" for name, fact in facts.items()), f"plan: {_sentence(plan)}"]))
    if path:
        figures = report.document(measured, plan.phases, systems.OURS)
        plan_facts = {**dataclasses.asdict(plan), "phases": sorted(plan.phases)}
        path.write_text(json.dumps({**facts, "plan": plan_facts, **figures}, indent=1, ensure_ascii=False) + "\n")


def _sentence(plan: Plan) -> str:
    of_phases = {
        "single": f"{plan.singles} jobs one at a time",
        "latency": f"{plan.samples} jobs after {plan.pause_seconds:g} s idle each",
        "idle": f"{plan.idle_seconds:g} s idle",
        CLIENTS: f"also with {', '.join(map(str, CLIENT_COUNTS))} clients",
    }
    parts = [
        f"median of {plan.rounds} interleaved rounds of {plan.jobs:,} jobs at concurrency {plan.concurrency}",
        *(text for phase, text in of_phases.items() if phase in plan.phases),
    ]
    return f"{', '.join(parts)}; {_READING}"


def _plan(options: argparse.Namespace) -> Plan:
    """Return the plan from the options. Missing options come from the full or the quick plan."""
    names = [field.name for field in dataclasses.fields(Plan)]
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    return dataclasses.replace(QUICK if options.quick else FULL, **given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=sys.modules["bench"].__doc__)
    parser.add_argument("--jobs", type=_positive, help=f"jobs in a timed load (default {FULL.jobs:,})")
    parser.add_argument("--rounds", type=_positive, help=f"rounds of each system (default {FULL.rounds})")
    parser.add_argument("--concurrency", type=_positive, help=f"connections that post (default {FULL.concurrency})")
    parser.add_argument("--singles", type=_positive, help=f"jobs one at a time, each round (default {FULL.singles})")
    parser.add_argument("--samples", type=_positive, help=f"jobs after a pause, each round (default {FULL.samples})")
    parser.add_argument("--idle-seconds", type=float, help=f"idle time that is measured (default {FULL.idle_seconds})")
    parser.add_argument("--phases", type=_phases, help=f"some of {','.join(ALL_PHASES)} (default: all but the last)")
    parser.add_argument("--quick", action="store_true", help="a smoke run of half a minute; its figures mean nothing")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--systems",
        type=_names,
        help=f"some of {','.join(systems.SYSTEMS)} (default: all; {' and '.join(OF_CLIENTS)} for --phases {CLIENTS})",
    )
    chosen.add_argument("--metrics", action="store_true", help="compare with this service without its metrics")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    parser.add_argument(
        "--variant",
        type=_variant,
        action="append",
        default=[],
        metavar="NAME:VARIABLE=VALUE,...",
        help="measure this service once more with other settings; may be repeated",
    )
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _phases(text: str) -> frozenset[str]:
    return frozenset(_some_of(ALL_PHASES, text))


def _names(text: str) -> list[str]:
    """Return the names of systems in the table's order, each once."""
    given = _some_of(systems.SYSTEMS, text)
    return [name for name in systems.SYSTEMS if name in given]


def _some_of(known: Iterable[str], text: str) -> set[str]:
    given = set(text.split(","))
    if unknown := given.difference(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    return given


def _variant(text: str) -> System:
    name, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(",")]
    if not name or not all(variable and equals for variable, equals, _ in pairs):
        raise argparse.ArgumentTypeError("expected NAME:VARIABLE=VALUE,VARIABLE=VALUE")
    return systems.ours(name, **{variable: value for variable, _, value in pairs})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
