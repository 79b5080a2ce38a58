"""The service as it runs in production: real gunicorn and dramatiq processes, started by its own commands."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from eventually import eventually

from devstack.ports import free_port, release
from devstack.processes import Child

ROOT = Path(__file__).resolve().parents[1]
JOB_TYPES = ROOT / "tests" / "job_types"

#: The service's own intervals, a lot shorter.
QUICK = {
    "HEARTBEAT_INTERVAL_SECONDS": "0.2",
    "LEASE_SECONDS": "1",
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "RELAY_INTERVAL_SECONDS": "0.1",
    "REPUBLISH_SECONDS": "1",
    "RETRY_BACKOFF_SECONDS": "0.1",
    "RETRY_BACKOFF_MAX_SECONDS": "0.5",
    "MAX_ATTEMPTS": "3",
    "DEFER_SECONDS": "0.1",
    "DEFER_MAX_SECONDS": "0.5",
    "DEFER_PROBE_SECONDS": "0.2",
}


class Service:
    """An API and workers on the servers of one test. `end` kills those that the test left running."""

    def __init__(self, environ, folder):
        self.folder = folder
        self._ports = []
        self.api_port, self.metrics_port = self._free_port(), self._free_port()
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{JOB_TYPES}",
            "API_PORT": str(self.api_port),
            "API_THREADS": "4",
            "API_PROCESSES": "1",
            "WORKER_PROCESSES": "1",
            "WORKER_THREADS": "4",
            "WORKER_METRICS_PORT": str(self.metrics_port),
            # Short timeouts, each below the next.
            "DATABASE_CONNECT_TIMEOUT_SECONDS": "1",
            "DATABASE_STATEMENT_TIMEOUT_SECONDS": "3",
            "MAIL_TIMEOUT_SECONDS": "5",
            "TIME_LIMIT_SECONDS": "6",
            "HANG_GRACE_SECONDS": "2",
            "WORKER_SHUTDOWN_SECONDS": "10",
            "STOP_GRACE_SECONDS": "30",
            "ACTOR_MODULES": "trying",
            "LOG_FORMAT": "json",
            # The test submits all jobs itself.
            "CANARY_INTERVAL_SECONDS": "0",
            **environ,
        }
        self.children = []

    def start_api(self, **environ):
        api = self._start("api", environ)
        eventually(lambda: self._ready(api), what="a ready API")
        return api

    def start_worker(self, **environ):
        # Further workers of a test serve their metrics elsewhere.
        port = str(self._free_port()) if any(child.log.stem.startswith("worker") for child in self.children) else None
        return self._start("worker", ({"WORKER_METRICS_PORT": port} if port else {}) | environ)

    def run(self, command):
        """Run a command such as `check` or `migrate` to its end, and return the finished process."""
        argv = [sys.executable, "-m", "jobs_service", command]
        return subprocess.run(argv, env=self.environ, cwd=ROOT, capture_output=True, text=True, check=False)

    def make_key(self, name, *scopes):
        """Create an API key, and return it."""
        argv = [sys.executable, "-m", "jobs_service", "keys", "create", name, *(f"--scope={scope}" for scope in scopes)]
        return subprocess.run(
            argv, env=self.environ, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    def stop(self):
        """Stop every process with SIGTERM and wait for it."""
        for child in self.children:
            if child.running:
                child.stop(seconds=15)

    def end(self):
        """Kill every process and release the ports. An orderly stop would take seconds."""
        for child in self.children:
            child.kill()
        for port in self._ports:
            release(port)

    def post(self, job_type, payload, **wishes):
        """Submit a job and return its id."""
        status, body = self.request("POST", "/jobs", {"type": job_type, "payload": payload, **wishes})
        assert status == 201, body
        return body["job_id"]

    def get(self, path):
        return self.request("GET", path)

    def job(self, job_id):
        return self.get(f"/jobs/{job_id}")[1]

    def when(self, job_id, status):
        """Wait until the job has this status and return it."""

        def reached():
            job = self.job(job_id)
            assert job["status"] == status, job
            return job

        return eventually(reached, what=f"status {status}")

    def post_text(self, job_type, payload):
        """Submit a job whose payload is this JSON text, and return its id."""
        status, body = self.request("POST", "/jobs", f'{{"type":"{job_type}","payload":{payload}}}'.encode())
        assert status == 201, body
        return body["job_id"]

    def request(self, method, path, body=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.api_port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, _decoded(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error)

    def metrics(self, port=None):
        """Return the samples of the worker's metrics as {text before the value: value}."""
        # A worker's are served by a process of their own, which may come later than its first jobs.
        lines = eventually(lambda: self._scrape(port or self.metrics_port), what="metrics").splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    def _scrape(self, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def lines(self, child, job_id):
        """Return the events that a child logged about a job."""
        lines = []
        for line in self.log(child).splitlines():
            with suppress(ValueError):
                fields = json.loads(line)
                if fields.get("job_id") == job_id:
                    lines.append(fields)
        return lines

    def log(self, child):
        return child.log.read_text(errors="replace")

    def _free_port(self):
        self._ports.append(free_port())
        return self._ports[-1]

    def _start(self, command, environ):
        log = self.folder / f"{command}-{len(self.children)}.log"
        metrics = self.folder / f"metrics-{command}-{len(self.children)}"
        argv = [sys.executable, "-m", "jobs_service", command]
        env = self.environ | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)} | environ
        child = Child(argv, log=log, env=env, cwd=ROOT)
        self.children.append(child)
        return child

    def _ready(self, api):
        if not api.running:
            raise RuntimeError(f"the API ended:\n{self.log(api)}")
        with suppress(urllib.error.URLError, ConnectionError):
            return self.get("/readyz")[0] == 200
        return False


def _decoded(reply):
    content = reply.read()
    is_json = "json" in (reply.headers.get("Content-Type") or "")
    return json.loads(content) if is_json else content.decode()
