"""Places where a test can make a process die, hang or fail. Without FAILPOINTS in the environment they do nothing.

A test starts a process with, for example, `FAILPOINTS="api.after_commit=kill; worker.after_effect=hang:30 once"`. It is
not a setting, because it has no use in production.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: Every failpoint, in the order in which a job passes them.
NAMES = (
    "api.in_event_loop",
    "api.before_commit",
    "api.after_commit",
    "api.after_publish",
    "relay.before_publish",
    "relay.after_publish",
    "worker.after_pop",
    "worker.after_claim",
    "storage.before_rename",
    "storage.after_rename",
    "mail.before_data",
    "mail.after_data",
    "worker.after_effect",
    "worker.after_verdict",
    "fail.before_push",
    "rescuer.after_rescue",
    "bulk_actions.after_batch",
    "pruner.after_files",
)


class Injected(OSError):
    """The error of a failpoint whose action is `raise`."""


def pass_by(name: str) -> None:
    """Do nothing: every failpoint, unless a test sets FAILPOINTS."""


def enabled(orders: str, folder: Path) -> Callable[[str], None]:
    """Return a function that acts on `orders`. `once` means once among all processes that share `folder`."""
    actions = dict(_order(text) for text in orders.split(";") if text.strip())

    def act(name: str) -> None:
        action, *how_often = actions.get(name, [""])
        if action and ("once" not in how_often or _is_first(folder / name)):
            _act(action, name)

    return act


def _order(text: str) -> tuple[str, list[str]]:
    name, _, action = text.strip().partition("=")
    if name not in NAMES or not action:
        raise ValueError(
            f"FAILPOINTS is wrong: expected name=kill, name=raise or name=hang:SECONDS, optionally followed by once;"
            f" got {text.strip()!r}"
        )
    return name, action.split()


def _is_first(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _act(action: str, name: str) -> None:
    verb, _, seconds = action.partition(":")
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "hang":
        time.sleep(float(seconds))
    else:
        raise Injected(f"failpoint {name}")


def _chosen(environ: Mapping[str, str]) -> Callable[[str], None]:
    orders = environ.get("FAILPOINTS", "")
    return enabled(orders, Path(environ.get("FAILPOINTS_DIR", "."))) if orders else pass_by


#: Called at each failpoint with its name.
failpoint: Callable[[str], None] = _chosen(os.environ)
