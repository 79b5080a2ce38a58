"""The `EventSource` of a real browser reads the events of jobs, also across a restart of the API."""

import json
import queue
import shutil
import subprocess
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

#: Seconds for a step, on whatever machine.
PATIENCE = 120

PAGE = b"""<!doctype html><script>
const api = new URLSearchParams(location.search).get("api");
let last = Promise.resolve();
const send = (what) => fetch("/report", {method: "POST", body: JSON.stringify(what)});
// One after the other: requests of several connections may change places.
const report = (what) => { last = last.then(() => send(what)); };
const source = new EventSource(api + "/events?type=csv-generation");
source.onopen = () => report({name: "open"});
for (const name of ["submitted", "processing", "completed", "reset"])
  source.addEventListener(name, (event) => report({name, job_id: JSON.parse(event.data).job_id}));
</script>"""


class Reports(BaseHTTPRequestHandler):
    """Serves the page, and takes what it reports."""

    def do_GET(self):
        self._answer(PAGE)

    def do_POST(self):
        self.server.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(b"")

    def log_message(self, *_):
        pass

    def _answer(self, content):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def browser(tmp_path):
    """Open the page for an API. Returns the queue of its reports."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed here")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Reports)
    server.reports = queue.Queue()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    @contextmanager
    def browser(api_port):
        url = f"http://127.0.0.1:{server.server_port}/?api=http://127.0.0.1:{api_port}"
        # The page is not the API's own, which permits no other site to read it.
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-web-security",
            "--remote-debugging-port=0",
        ]
        with (tmp_path / "browser.log").open("w") as log:
            command = [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", url]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield server.reports
        finally:
            process.terminate()
            process.wait(PATIENCE)

    yield browser
    server.shutdown()
    thread.join()
    server.server_close()


def reports_until(reports, wanted):
    """Return the reports up to the first that is wanted."""
    found = [reports.get(timeout=PATIENCE)]
    while not wanted(found[-1]):
        found.append(reports.get(timeout=PATIENCE))
    return found


def until_it_hears(service, reports):
    """Submit jobs until there is word of one. A stream begins a moment after it is open."""
    while True:
        service.post("csv-generation", {"name": "Nobody"})
        with suppress(queue.Empty):
            while reports.get(timeout=1)["name"] == "open":
                pass
            return


def test_a_browser_misses_nothing_and_gets_nothing_twice_while_the_api_restarts(service, browser):
    api = service.start_api()
    if "/events" not in service.get("/openapi.json")[1]["paths"]:
        pytest.skip("this API has no stream of events")
    service.start_worker()
    with browser(service.api_port) as reports:
        until_it_hears(service, reports)
        first = service.post("csv-generation", {"name": "Alice"})
        seen = reports_until(reports, lambda report: (report["name"], report.get("job_id")) == ("completed", first))

        api.stop(seconds=30)
        service.start_api()
        second = service.post("csv-generation", {"name": "Bob"})
        seen += reports_until(reports, lambda report: (report["name"], report.get("job_id")) == ("completed", second))

    told = [(report["job_id"], report["name"]) for report in seen if report.get("job_id") in (first, second)]
    assert [(job_id, name) for job_id in (first, second) for name in ("submitted", "processing", "completed")] == told
    assert "open" in {report["name"] for report in seen}
    assert "reset" not in {report["name"] for report in seen}
