"""The checks, in the order of the brief: each is a sentence and a function that raises when it does not hold."""

import json
import re
import shlex
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any
from uuid import UUID

from dashboards import expressions, with_variables
from report import CheckError, Report, eventually, expect, expect_in
from stack import OPTIONAL, PROJECT, ROOT, Stack

#: Seconds for an ordinary job. Starting takes milliseconds; this is for a machine that is busy with something else.
JOB_SECONDS = 30
#: Seconds for what the relay or the dead-letter projection has to mend after Redis lost everything.
MENDED_SECONDS = 90
#: Seconds for Prometheus to find a new worker by DNS, scrape it and evaluate the rules twice.
SCRAPED_SECONDS = 120

CREATE_CSV = """curl -X POST http://localhost:3000/jobs \
  -H "Content-Type: application/json" \
  -d '{
    "type": "csv-generation",
    "payload": {
      "name": "Alice",
      "score": 95
    }
  }'"""

SELECT = 'docker exec async-job-system-db-1 psql -U user -d jobs_db -c "SELECT id, status, attempts FROM jobs;"'
DEAD_LETTERS = "docker exec async-job-system-redis-1 redis-cli LRANGE job_dlq 0 -1"
FLUSH = "docker exec async-job-system-redis-1 redis-cli FLUSHALL"

#: Where Mailpit, MailHog and maildump list what they have caught.
MAIL_LISTS = ("/api/v1/messages", "/api/v2/messages", "/messages")

_CHECKS: list[tuple[str, Callable[["Walk"], None]]] = []


def check(sentence: str) -> Callable[[Callable[["Walk"], None]], Callable[["Walk"], None]]:
    def register(function: Callable[["Walk"], None]) -> Callable[["Walk"], None]:
        _CHECKS.append((sentence, function))
        return function

    return register


def walk(stack: Stack, report: Report) -> None:
    """Bring the stack up and make every check. Raises `StackError` when there is nothing to check."""
    stack.leave_out_what_is_not_to_be_had()
    stack.up()
    walker = Walk(stack)
    try:
        for sentence, function in _CHECKS:
            report.run(sentence, lambda function=function: function(walker))
    finally:
        walker.remove_outputs()


def nothing_is_left(stack: Stack) -> None:
    expect([], stack.left_over())


class Walk:
    """What the checks share: the stack, its addresses, and the jobs made so far."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.api = stack.url("app", 3000)
        self.csv_id = ""
        self.mail_id = ""
        self.dead_id = ""
        self.made: list[str] = []

    def shell(self, command: str) -> str:
        """Run a line of the brief as it stands there."""
        command = command.replace("http://localhost:3000", self.api)
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise CheckError(f"{command}: {done.stderr.strip()}")
        return done.stdout

    def post(self, job: dict[str, Any]) -> str:
        """Create a job with curl, expect the brief's answer, and return the job's id."""
        return self.created(
            f"curl -X POST http://localhost:3000/jobs -H 'Content-Type: application/json' -d "
            f"{shlex.quote(json.dumps(job))}"
        )

    def created(self, command: str) -> str:
        body, _, status = self.shell(command + " --silent --write-out '\\n%{http_code}'").rpartition("\n")
        expect("201", status.strip())
        answer = json.loads(body)
        job_id = str(UUID(answer["job_id"]))
        expect({"job_id": job_id, "status": "pending"}, answer)
        self.made.append(job_id)
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        return json.loads(self.shell(f"curl --silent http://localhost:3000/jobs/{job_id}"))

    def ended(self, job_id: str, status: str, seconds: float = JOB_SECONDS) -> dict[str, Any]:
        """Wait until the job has this status, and return it."""

        def look() -> dict[str, Any]:
            job = self.job(job_id)
            expect(status, job["status"], f"status of {job_id}, error {job.get('error')!r}")
            return job

        return eventually(look, seconds=seconds)  # type: ignore[return-value] # what look() returns

    def logged(self, job_id: str, *events: str) -> None:
        """Expect a line of the first worker for each event that names the job."""

        def look() -> bool:
            done = subprocess.run(
                ["docker", "logs", f"{PROJECT}-worker-1"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=True,
            )
            lines = [line for line in done.stdout.splitlines() if job_id in line]
            expect([], [event for event in events if not any(event in line for line in lines)], "not logged")
            return True

        eventually(look, seconds=10)

    def prometheus(self, path: str, **query: str) -> Any:
        answer = fetch(f"{self.stack.url('prometheus', 9090)}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        return json.loads(answer)["data"]

    def remove_outputs(self) -> None:
        for job_id in self.made:
            (ROOT / "output" / f"{job_id}.csv").unlink(missing_ok=True)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=15) as answer:
        return answer.read().decode()


@check("docker compose ps shows app, worker, db, redis, mailhog, prometheus, alertmanager and grafana, all healthy")
def services(walker: Walk) -> None:
    shown = walker.stack.containers()

    expect(dict.fromkeys(walker.stack.services, "healthy"), {one["Service"]: one["Health"] for one in shown})
    expect_in("async-job-system-worker-1", str(shown))
    expect_in("async-job-system-db-1", str(shown))


@check("app, worker and migrate start without a word of error")
def quiet(walker: Walk) -> None:
    for service in ("app", "worker", "migrate"):
        lines = walker.stack.logs(service).splitlines()
        expect([], [line for line in lines if re.search(r"error|critical|traceback", line, re.IGNORECASE)], service)


@check("POST /jobs of a CSV job answers 201 with its id and pending")
def post_csv(walker: Walk) -> None:
    walker.csv_id = walker.created(CREATE_CSV)


@check("GET /jobs/<id> becomes completed with result output/<id>.csv")
def get_csv(walker: Walk) -> None:
    job = walker.ended(walker.csv_id, "completed")

    expect(f"output/{walker.csv_id}.csv", job["result"])
    expect((walker.csv_id, "csv-generation", 1), (job["job_id"], job["type"], job["attempts"]))


@check("output/<id>.csv lies in the project folder with the brief's content")
def read_csv(walker: Walk) -> None:
    file = ROOT / "output" / f"{walker.csv_id}.csv"

    expect(["key,value", "name,Alice", "score,95"], file.read_text().splitlines())


@check("a list of objects becomes a table; both spellings of a type are one")
def table(walker: Walk) -> None:
    job_id = walker.post({"type": "CSV_GENERATION", "payload": [{"a": 1, "b": 2}, {"b": 3, "c": 4}]})

    expect("csv-generation", walker.ended(job_id, "completed")["type"])
    expect(["a,b,c", "1,2,", ",3,4"], (ROOT / "output" / f"{job_id}.csv").read_text().splitlines())


@check("an EMAIL_SEND job's mail is visible in the mail catcher, its message id is the result")
def mail(walker: Walk) -> None:
    subject = "Job Notification of compose-test"
    payload = {"to": "test@example.com", "subject": subject, "body": "Your job has been processed successfully."}
    walker.mail_id = walker.post({"type": "EMAIL_SEND", "payload": payload})

    expect_in("@", walker.ended(walker.mail_id, "completed")["result"])
    eventually(lambda: subject in caught(walker), seconds=10)


def caught(walker: Walk) -> str:
    """Return the mail catcher's list, whichever catcher it is."""
    for path in MAIL_LISTS:
        try:
            if (text := fetch(walker.stack.url("mailhog", 8025) + path)).lstrip().startswith(("{", "[")):
                return text
        except urllib.error.HTTPError:
            continue
    raise CheckError("the mail catcher has none of the lists known here")


@check("the worker's log has Job received, Job marked as processing and Job completed with the job's id")
def log_of_success(walker: Walk) -> None:
    walker.logged(walker.csv_id, "Job received", "Job marked as processing", "Job completed")


@check("a job that cannot succeed is retried and then failed, with 3 attempts")
def exhaust(walker: Walk) -> None:
    folder = ROOT / "output"
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        payload = {"name": "Alice", "score": 95}
        walker.dead_id = walker.post({"type": "csv-generation", "payload": payload, "max_attempts": 3})
        job = walker.ended(walker.dead_id, "failed", seconds=120)
    finally:
        folder.chmod(mode)
    expect(3, job["attempts"])


@check("a mail waits for a mail server that is away, and is sent when it is back")
def mail_server_away(walker: Walk) -> None:
    walker.stack.compose("stop", "mailhog")
    try:
        payload = {"to": "test@example.com", "subject": "later", "body": "arrives"}
        job_id = walker.post({"type": "EMAIL_SEND", "payload": payload})
        eventually(lambda: walker.job(job_id)["waits_for"], seconds=60)
    finally:
        walker.stack.compose("start", "mailhog")
    expect(1, walker.ended(job_id, "completed", seconds=120)["attempts"])


@check("the worker's log has Job retried and Job failed with its id")
def log_of_failure(walker: Walk) -> None:
    walker.logged(walker.dead_id, "Job retried", "Job failed")


@check("its id is on the Redis list job_dlq")
def dead_letter(walker: Walk) -> None:
    eventually(lambda: walker.dead_id in walker.shell(DEAD_LETTERS), seconds=10)


@check("psql in the db container shows id, status and attempts")
def psql(walker: Walk) -> None:
    rows = walker.shell(SELECT)

    for job_id, status, attempts in ((walker.csv_id, "completed", 1), (walker.dead_id, "failed", 3)):
        if not re.search(rf"{job_id} +\| +{status} +\| +{attempts}\b", rows):
            raise CheckError(f"no row {job_id} | {status} | {attempts} in {rows}")


@check("our containers run as a user, read-only, without capabilities")
def confined(walker: Walk) -> None:
    for container in walker.stack.inspect(f"{PROJECT}-app-1", f"{PROJECT}-worker-1"):
        host = container["HostConfig"]
        expect((True, ["ALL"], None), (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]), container["Name"])
        expect("10001:10001", container["Config"]["User"])
    attempt = "import os, pathlib; print(os.getuid()); pathlib.Path('/app/x').touch()"
    for service in ("app", "worker"):
        try:
            walker.stack.compose("exec", "-T", service, "python", "-c", attempt)
        except CheckError as error:
            expect_in("Read-only file system", str(error))
        else:
            raise CheckError(f"{service} wrote into its own image")
        expect("10001", walker.stack.compose("exec", "-T", service, "id", "-u").strip())


@check("what is published is published on 127.0.0.1 only")
def loopback(walker: Walk) -> None:
    published = [
        (container["Name"], binding["HostIp"])
        for container in walker.stack.inspect(*(one["Name"] for one in walker.stack.containers()))
        for bindings in container["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    ]

    expect({"127.0.0.1"}, {address for _, address in published})


@check("a second `docker compose up -d` starts nothing anew")
def settled(walker: Walk) -> None:
    before = {one["ID"] for one in walker.stack.containers()}
    walker.stack.start()

    expect(before, {one["ID"] for one in walker.stack.containers()})


@check("jobs that wait while Redis loses everything are all completed, and job_dlq is rebuilt")
def wiped(walker: Walk) -> None:
    walker.stack.compose("stop", "worker")
    waiting = [walker.post({"type": "csv-generation", "payload": {"number": number}}) for number in range(10)]
    walker.shell(FLUSH)
    walker.stack.compose("start", "worker")

    for job_id in waiting:
        walker.ended(job_id, "completed", seconds=MENDED_SECONDS)
    eventually(lambda: walker.dead_id in walker.shell(DEAD_LETTERS), seconds=MENDED_SECONDS)


@check("a job posted while Redis is down is accepted, and completed when it is back")
def without_redis(walker: Walk) -> None:
    walker.stack.compose("stop", "redis")
    try:
        job_id = walker.post({"type": "csv-generation", "payload": {"redis": "down"}})
    finally:
        walker.stack.compose("start", "redis")
    walker.ended(job_id, "completed", seconds=MENDED_SECONDS)


@check("docker compose up -d --scale worker=3 runs three, all healthy")
def scale(walker: Walk) -> None:
    walker.stack.start("--scale", "worker=3")
    walker.stack.wait_until_healthy()

    expect(3, sum(one["Service"] == "worker" for one in walker.stack.containers()))


@check("Prometheus scrapes all three workers and the API")
def scraped(walker: Walk) -> None:
    def look() -> bool:
        targets = walker.prometheus("targets")["activeTargets"]
        up = [target["labels"]["job"] for target in targets if target["health"] == "up"]
        expect((3, 1, 1), tuple(up.count(job) for job in ("jobs-worker", "jobs-api", "prometheus")), "targets up")
        return True

    eventually(look, seconds=SCRAPED_SECONDS, every=2)


@check("Prometheus counts what was done: accepted jobs, dead letters, worker processes, nothing unfinished")
def counted(walker: Walk) -> None:
    def value(expr: str) -> float:
        (sample,) = walker.prometheus("query", query=expr)["result"]
        return float(sample["value"][1])

    def look() -> bool:
        expect(len(walker.made), value('sum(jobs_submitted_total{actor_name!~"canary-.*"})'), "accepted")
        expect(1, value("max(jobs_dead)"), "dead letters")
        expect(True, value("max(jobs_workers)") >= 3, "three containers with at least a worker process each")
        # A canary may be on its way.
        expect(True, value("sum(max by (queue_name, state) (jobs_current))") <= 1, "nothing else is unfinished")
        return True

    eventually(look, seconds=SCRAPED_SECONDS, every=2)


@check("its rules are healthy, and it understands every query of every dashboard panel")
def panels(walker: Walk) -> None:
    def look() -> bool:
        rules = [rule for group in walker.prometheus("rules")["groups"] for rule in group["rules"]]
        expect({"ok"}, {rule["health"] for rule in rules}, "health of the rules")
        return True

    eventually(look, seconds=SCRAPED_SECONDS, every=5)
    # That each has an answer takes jobs of every fate: tests/integration/test_dashboard_queries.py.
    for place, expr in expressions():
        try:
            walker.prometheus("query", query=with_variables(expr))
        except urllib.error.HTTPError as error:
            raise CheckError(f"{place}: {expr}: {error}") from error


@check("the Alertmanager has what Prometheus fires: the watchdog, which always does")
def alertmanager(walker: Walk) -> None:
    if OPTIONAL not in walker.stack.services:
        return
    url = walker.stack.url("alertmanager", 9093)

    def look() -> bool:
        alerts = json.loads(fetch(f"{url}/api/v2/alerts"))
        expect_in("JobsWatchdog", str([alert["labels"]["alertname"] for alert in alerts]))
        return True

    eventually(look, seconds=SCRAPED_SECONDS, every=2)


@check("Grafana is well, and shows the dashboard where the image is Grafana's")
def grafana(walker: Walk) -> None:
    url = walker.stack.url("grafana", 3000)
    expect("ok", json.loads(fetch(f"{url}/api/health"))["database"])
    try:
        fetch(f"{url}/api/frontend/settings")
    except urllib.error.HTTPError:
        return  # an image that answers the health check and no more
    expect("jobs-overview", json.loads(fetch(f"{url}/api/dashboards/uid/jobs-overview"))["dashboard"]["uid"])


@check("app and workers stop by themselves when asked, in time")
def graceful(walker: Walk) -> None:
    walker.stack.compose("stop", "app", "worker")

    stopped = [one for one in walker.stack.containers("--all") if one["Service"] in {"app", "worker"}]
    # 137 would be Docker's kill at the end of the grace period.
    expect({one["Name"]: 0 for one in stopped}, {one["Name"]: one["ExitCode"] for one in stopped})


@check("jobs and dead letters survive docker compose down and up")
def survive(walker: Walk) -> None:
    walker.stack.compose("down")
    walker.stack.up()
    walker.api = walker.stack.url("app", 3000)

    expect("completed", walker.job(walker.csv_id)["status"])
    expect_in(walker.dead_id, walker.shell(DEAD_LETTERS))
