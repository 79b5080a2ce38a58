"""`make screenshots`: takes the pictures in docs/console/ from a stack that runs the jobs of a shop.

It starts the stack of `make run` in a folder of its own, on free ports, submits jobs, waits until each kind of them has
happened, and photographs pages in both themes.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eventually import eventually
from playwright.sync_api import Browser, sync_playwright

from devstack.ports import free_port
from devstack.processes import Child

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "console"

#: Picture -> the page's path. {job}, {failed} and {redrive} are ids.
PAGES = {
    "overview": "",
    "jobs": "/jobs",
    "job": "/jobs/{running}",
    "failed-job": "/jobs/{failed}",
    "new-job": "/jobs/new?type=payment-capture&example=1",
    "failures": "/failures",
    "failure": "/failures/{group}",
    "queues": "/queues",
    "queue": "/queues/payments",
    "workers": "/workers",
    "type": "/types/payment-capture",
}
WIDTH, HEIGHT = 1280, 860


class Api:
    """The API of the stack."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)

    def submit(self, jobs: list[dict[str, Any]]) -> list[str]:
        """Submit jobs in one batch, and return their ids."""
        body = json.dumps(jobs).encode()
        request = urllib.request.Request(
            f"{self.address}/jobs/batch", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return [result["job_id"] for result in json.load(answer)["results"]]


@contextmanager
def stack(folder: Path) -> Iterator[Api]:
    """Run what `make run` starts."""
    ports = {name: free_port() for name in ("API_PORT", "MAIL_PORT", "MAIL_WEB_PORT", "WORKER_METRICS_PORT")}
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'console'}",
        "ACTOR_MODULES": "shop",
        "LOCAL_DIR": str(folder / "local"),
        "OUTPUT_DIR": str(folder / "output"),
        "GRAFANA_URL": "http://localhost:3001",
        "RETRY_BACKOFF_SECONDS": "1",
        "DEFER_SECONDS": "2",
        **{name: str(port) for name, port in ports.items()},
    }
    child = Child([sys.executable, "-m", "devstack"], log=folder / "run.log", env=environ, cwd=ROOT)
    try:
        eventually(lambda: "ready" in child.tail(1000) or not child.running, seconds=120, what="a stack that is ready")
        if not child.running:
            sys.exit(child.tail(50))
        yield Api(ports["API_PORT"])
    finally:
        child.stop(with_signal=signal.SIGINT, seconds=60)


def day(api: Api) -> list[str]:
    """Submit jobs for some minutes, so that there is a curve to see. Return the ids of the last ones."""
    rush = [60, 150, 90, 130]
    for number, count in enumerate(rush):
        ids = api.submit(jobs_of_a_shop(number, count))
        print(f"minute {number + 1} of {len(rush)}", flush=True)
        if count is not rush[-1]:
            time.sleep(60)
    return ids


def jobs_of_a_shop(minute: int, count: int) -> list[dict[str, Any]]:
    """Return jobs of every kind: that succeed, are retried, fail, wait for a date or for a server, and take long."""
    customers = ["Alice", "Bob", "Carol", "Dan", "Erin"]
    orders = [
        {"order_id": 1_000 * (minute + 1) + n, "customer": customers[n % 5], "total": 19.5 + n} for n in range(count)
    ]
    mails = [
        {"to": f"{order['customer'].lower()}@example.com", "subject": "Your order", "body": "It is on its way."}
        for order in orders[:30]
    ]
    return [
        *({"type": "payment-capture", "payload": order, "tags": ["checkout"]} for order in orders),
        *({"type": "stock-sync", "payload": order, "priority": 7} for order in orders[:20]),
        *({"type": "EMAIL_SEND", "payload": mail} for mail in mails),
        *({"type": "csv-generation", "payload": {"rows": orders[n : n + 20]}} for n in range(20)),
        *({"type": "EMAIL_SEND", "payload": mail, "delay_seconds": 86_400} for mail in mails[:4]),
        {"type": "order-export", "payload": {"month": "2026-11", "orders": 60_000}, "tags": ["monthly"]},
    ]


def places(api: Api, ids: list[str]) -> dict[str, str]:
    """Wait until there is something to see, and return the ids of what is shown."""

    def shown() -> dict[str, str]:
        stats = api.get("/stats")
        assert not stats["jobs"]["pending"]["jobs"] > 100
        groups = api.get("/dead-letters/groups")["groups"]
        assert len(groups) > 1
        failed = api.get("/jobs?status=failed&type=payment-capture&attempts_min=3&limit=1")["jobs"]
        return {"running": ids[-1], "failed": failed[0]["job_id"], "group": groups[0]["id"]}

    return eventually(shown, seconds=120, what="jobs of each kind")


def photograph(browser: Browser, api: Api, ids: dict[str, str], *, dark: bool) -> None:
    """Take the pictures of one theme."""
    theme = "dark" if dark else "light"
    profile = browser.new_context(
        base_url=api.address, color_scheme=theme, viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce"
    )
    tab = profile.new_page()
    for name, path in PAGES.items():
        tab.goto("/console" + path.format_map(ids), wait_until="load")
        tab.screenshot(path=FOLDER / f"{name}-{theme}.png")
        print(f"{name}-{theme}.png")
    profile.close()


def main() -> int:
    """Take all pictures."""
    browser_path = os.environ.get("BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("no browser here: install Debian's package chromium, or let BROWSER name one")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, stack(Path(folder)) as api, sync_playwright() as playwright:
        ids = places(api, day(api))
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for dark in (False, True):
            photograph(browser, api, ids, dark=dark)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
