"""Draw docs/images/overview.png: `make picture`. Takes ten minutes and a Prometheus on PATH.

Runs the service on servers of its own under mixed work: a steady stream, a burst, and a server that fails for a while.
"""

import argparse
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from service import Service  # noqa: E402 - the path comes first

from jobs_service.devstack.servers import MailCatcher, Postgres, Prometheus, Valkey  # noqa: E402

#: Not drawn: the rates' first windows, and workers that are still starting.
WARM_UP_SECONDS = 40

PICTURE = ROOT / "docs" / "images" / "overview.png"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    if Prometheus.binary() is None:
        parser.error("there is no Prometheus on PATH")
    random.seed(4)
    with tempfile.TemporaryDirectory(prefix="picture-") as folder:
        run(Path(folder), options.minutes, options.picture)


def run(folder, minutes, picture):
    with (
        Postgres(folder / "postgres") as postgres,
        Valkey(folder / "valkey") as valkey,
        MailCatcher(folder / "mail") as mail,
    ):
        environ = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "MAIL_HOST": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "OUTPUT_DIR": str(folder / "output"),
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
            "ACTOR_MODULES": "shop",
            "WORKER_PROCESSES": "2",
            "RETRY_BACKOFF_SECONDS": "5",
        }
        subprocess.run([sys.executable, "-m", "jobs_service", "migrate"], cwd=ROOT, env=environ, check=True)
        service = Service(environ, folder)
        try:
            watched(service, folder, minutes, picture)
        finally:
            service.stop()


def watched(service, folder, minutes, picture):
    service.start_api()
    service.start_worker()
    targets = {"jobs-api": service.api_port, "jobs-worker": service.metrics_port}
    rules = ROOT / "monitoring" / "prometheus" / "rules"
    with Prometheus(folder / "prometheus", targets=targets, rules=rules, interval="2s") as prometheus:
        work(service, minutes * 60)
        draw = [sys.executable, ROOT / "monitoring" / "grafana" / "draw.py", picture, "--prometheus", prometheus.url]
        subprocess.run([*draw, "--minutes", str(minutes), "--window", "20s", "--rows", "4"], check=True)


def work(service, seconds):
    """Post jobs, second by second, for so long after the warm-up."""
    began = time.monotonic() + WARM_UP_SECONDS
    while (passed := time.monotonic() - began) < seconds:
        for job_type, payload, wishes in a_second_of_jobs(max(0.0, passed / seconds)):
            service.post(job_type, payload, **wishes)
        time.sleep(max(0.0, 1 - (time.monotonic() - began - passed)))


def a_second_of_jobs(part):
    """Yield the jobs of a second, after this part of the whole time."""
    wave = 1 + 0.4 * math.sin(part * 12)
    burst = 14 if 0.35 < part < 0.45 else 0
    away = 0.45 if 0.62 < part < 0.72 else 0.01
    yield from [("resize-image", {}, {})] * some(9 * wave + burst * 3)
    yield from [("sync-customer", {"risk": away}, {})] * some(7 * wave)
    yield from [("build-report", {}, {})] * some(0.6)
    yield from [("build-report", {}, {"delay_seconds": random.randint(20, 90)})] * some(0.4)
    yield from [("csv-generation", {"name": "Alice", "score": 95}, {})] * some(2)
    yield from [("EMAIL_SEND", {"to": "a@example.com", "subject": "Hello", "body": "Shipped."}, {})] * some(1.5)


def some(mean):
    """Return a number of events whose mean is this."""
    return sum(random.random() < mean / 100 for _ in range(100))


if __name__ == "__main__":
    main()
