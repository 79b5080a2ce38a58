"""The command `python -m bench`: reads the options, runs the rounds, prints the table."""

import argparse
import dataclasses
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import machine, report, rounds, servers, systems
from bench.errors import Failed
from bench.rounds import PHASES, Plan
from bench.systems import System
from devstack.servers import ServerError

FULL = Plan()
QUICK = Plan(jobs=60, rounds=1, samples=1, quiet_seconds=0.2, idle_seconds=1.0)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    yardstick = systems.bare() if options.metrics else systems.straightforward()
    compared = [yardstick, systems.ours(), *options.variant]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, servers.running(Path(folder)) as running:
            facts = {"command": shlex.join(["python", "-m", "bench", *arguments]), **machine.describe(running)}
            measured = _measure(compared, plan, running, Path(folder))
    except (Failed, ServerError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started is stopped", file=sys.stderr)
        return 130
    _publish(measured, plan, facts, options.json)
    return 0


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
    yardstick = next(iter(measured))
    table = report.table(measured, plan.phases, yardstick)
    print("\n".join(["", table, "", *(f"{name}: {fact}" for name, fact in facts.items()), f"plan: {_sentence(plan)}"]))
    if path:
        figures = report.document(measured, plan.phases, yardstick)
        plan_facts = {**dataclasses.asdict(plan), "phases": sorted(plan.phases)}
        path.write_text(json.dumps({**facts, "plan": plan_facts, **figures}, indent=1, ensure_ascii=False) + "\n")


def _sentence(plan: Plan) -> str:
    return (
        f"median of {plan.rounds} interleaved rounds of {plan.jobs:,} jobs at concurrency {plan.concurrency}, "
        f"{plan.samples} jobs after {plan.pause_seconds:g} s idle each, {plan.idle_seconds:g} s idle; "
        "in brackets the worst and the best round"
    )


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
    parser.add_argument("--samples", type=_positive, help=f"jobs after a pause, each round (default {FULL.samples})")
    parser.add_argument("--idle-seconds", type=float, help=f"idle time that is measured (default {FULL.idle_seconds})")
    parser.add_argument("--phases", type=_phases, help=f"some of {','.join(PHASES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a smoke run of half a minute; its figures mean nothing")
    parser.add_argument("--metrics", action="store_true", help="compare with this service without its metrics")
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
    if unknown := set(text.split(",")) - set(PHASES):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(PHASES)}")
    return frozenset(text.split(","))


def _variant(text: str) -> System:
    name, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(",")]
    if not name or not all(variable and equals for variable, equals, _ in pairs):
        raise argparse.ArgumentTypeError("expected NAME:VARIABLE=VALUE,VARIABLE=VALUE")
    return systems.ours(name, **{variable: value for variable, _, value in pairs})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
