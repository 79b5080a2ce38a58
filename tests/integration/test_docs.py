"""/, /docs and /docs/errors, from a real API behind a proxy's path, seen by a real browser."""

import http.client
import json
import re
import shutil
import subprocess

import pytest

PREFIX = "/jobs-api"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def api(service):
    service.start_api()
    return service


def get(api, path, method="GET", **headers):
    """Return the status, the headers and the content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", api.api_port, timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    try:
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_the_index_is_for_programs_and_sends_browsers_to_the_page(service):
    service.start_api(API_PREFIX=PREFIX)
    status, headers, content = get(service, "/")

    assert (200, "application/json", "Accept") == (status, headers["Content-Type"], headers["Vary"])
    links = json.loads(content)["links"]
    for path in links.values():
        assert path.startswith(PREFIX)
        # Not its content: a stream of events has no end.
        assert 200 == get(service, path.removeprefix(PREFIX), method="HEAD")[0], path
    for accept in ("*/*", "application/json", "text/html;q=0.5,application/json", "image/png", "nonsense"):
        assert 200 == get(service, "/", accept=accept)[0], accept
    status, headers, _ = get(service, "/", accept=BROWSER)
    assert (303, f"{PREFIX}/console", "Accept") == (status, headers["Location"], headers["Vary"])


def test_files_are_kept_by_caches_that_ask_whether_they_are_current(api):
    for path in ("/docs", "/docs/errors", "/docs/files/swagger-ui-bundle.js", "/docs/files/page.css"):
        status, headers, content = get(api, path)
        assert (200, "no-cache", "nosniff") == (status, headers["Cache-Control"], headers["X-Content-Type-Options"])
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        for tag in (headers["ETag"], f'"other", W/{headers["ETag"]}', "*"):
            unchanged = get(api, path, if_none_match=tag)
            assert (304, headers["ETag"], b"") == (unchanged[0], unchanged[1]["ETag"], unchanged[2])
        assert 200 == get(api, path, if_none_match='"other"')[0]
        head = get(api, path, method="HEAD")
        assert (200, str(len(content)), b"") == (head[0], head[1]["Content-Length"], head[2])


@pytest.mark.parametrize(
    "name", ["source.json", "LICENSE", "..%2f..%2fapp.py", "%2e%2e", "swagger-ui%2fswagger-ui.css", "docs.html", "%00"]
)
def test_no_other_file_is_served(api, name):
    assert 404 == get(api, f"/docs/files/{name}")[0]


def test_the_type_of_a_problem_leads_to_its_section(api):
    for path in ("/jobs/none", "/none", "/jobs?limit=x"):
        problem = json.loads(get(api, path)[2])
        page, _, section = problem["type"].partition("#")
        assert f'id="{section}"' in get(api, page)[2].decode()
        assert section == problem["code"]


@pytest.fixture
def browse(tmp_path):
    """Load a page in Chromium. Returns its elements after its scripts ran, and what its console says."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed here")

    def browse(url, *options):
        # As root it has no sandbox; the page is our own. Its clock runs ahead, so that nothing is waited for.
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path}",
        ]
        command = [chromium, *flags, "--virtual-time-budget=20000", *options, "--dump-dom", url]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        return finished.stdout, [line for line in finished.stderr.splitlines() if ":CONSOLE:" in line]

    return browse


def test_a_browser_shows_every_operation_and_reports_nothing(api, browse):
    described = {
        operation["operationId"]
        for methods in api.get("/openapi.json")[1]["paths"].values()
        for operation in methods.values()
    }

    elements, console = browse(f"http://127.0.0.1:{api.api_port}/docs")

    assert described == set(re.findall(r'id="operations-(?!tag-)[^"]*-((?:[a-z]+_)+[a-z]+)"', elements))
    assert [] == console


def test_a_browser_shows_the_errors_and_follows_a_dark_screen(api, browse):
    elements, console = browse(f"http://127.0.0.1:{api.api_port}/docs/errors#wrong_status")
    dark, _ = browse(f"http://127.0.0.1:{api.api_port}/docs", "--force-dark-mode")

    assert '<h2 id="wrong_status">' in elements
    assert [] == console
    assert 'class="dark-mode"' in dark
