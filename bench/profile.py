"""The command `python -m bench.profile`: writes flame graphs of the API and of the worker while they are loaded."""

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import servers, systems
from bench.errors import Failed
from bench.observer import Observer
from bench.rounds import Plan, Round
from bench.systems import Stack
from devstack.servers import ServerError

#: Samples a second. Each stops the process for a moment.
RATE = "200"
#: Time for a recorder to write its picture once the load is over.
WRITE_SECONDS = 60


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs that are posted while the processes are sampled")
    parser.add_argument("--concurrency", type=int, default=32, help="connections that post (default 32)")
    parser.add_argument("--folder", type=Path, default=Path("output/profile"), help="where the pictures go")
    options = parser.parse_args(arguments)
    plan = Plan(jobs=options.jobs, concurrency=options.concurrency)
    try:
        with tempfile.TemporaryDirectory(prefix="profile-") as folder, servers.running(Path(folder)) as running:
            _profile(plan, running, Path(folder) / "stack", options.folder)
    except (Failed, ServerError) as error:
        print(f"profile: {error}", file=sys.stderr)
        return 1
    return 0


def _profile(plan: Plan, running: servers.Servers, files: Path, pictures: Path) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    with Observer(running, "profile") as observer, Stack(systems.ours(), running, "profile", files) as stack:
        load = Round(plan, stack, observer, lambda text: print(f"profile: {text}", file=sys.stderr, flush=True))
        load.warm_up()
        with contextlib.ExitStack() as recorders:
            for name in ("API", "worker"):
                picture = pictures / f"{name.lower()}.svg"
                for pid in stack.groups[name]:
                    recorders.enter_context(recording(pid, picture))
                print(picture)
            load.say(f"{plan.jobs:,} jobs, sampled")
            load.work_off(plan.jobs)


@contextlib.contextmanager
def recording(pid: int, picture: Path) -> Iterator[None]:
    """Sample a process and its descendants during the block, and draw where the time went. Raises `Failed`."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if program is None:
        raise Failed("py-spy is missing: pip install -r requirements-dev.txt")
    command = [
        program,
        "record",
        "--pid",
        str(pid),
        "--subprocesses",
        "--gil",
        "--rate",
        RATE,
        "--output",
        str(picture),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as recorder:
        yield
        recorder.send_signal(signal.SIGINT)
        said, _ = recorder.communicate(timeout=WRITE_SECONDS)
    if not picture.exists():
        raise Failed(f"py-spy recorded nothing: {said.strip()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
