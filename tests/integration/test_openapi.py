"""The OpenAPI document, tried by what was not written here: a linter, a fuzzer, and two generators of clients.

Node's tools and one generator are installed into .local/ first, in environments of their own. Where Node, npm or the
package registries cannot be had, their tests are skipped and say so.
"""

import json
import os
import re
import shutil
import sys

import pytest
from foreign_tools import TOOLS, node_tools, python_tools, run
from service import Service

__all__ = ["node_tools", "python_tools"]


@pytest.fixture
def api(environ, tmp_path):
    """An API and a worker with the built-in job types only."""
    service = Service(environ, tmp_path)
    try:
        service.start_api(ACTOR_MODULES="")
        service.start_worker(ACTOR_MODULES="")
        yield service
    finally:
        service.end()


@pytest.fixture
def document(api, tmp_path):
    """The document as a file."""
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(api.get("/openapi.json")[1]))
    return path


def told(finished):
    """Return what a client printed at its end."""
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(finished.stdout)


def routes(document):
    """Return what the document has beyond the routes that every client needs: `wait`, and the module of downloads."""
    paths = json.loads(document.read_text())["paths"]
    parameters = paths["/jobs/{job_id}"]["get"]["parameters"]
    download = paths.get("/jobs/{job_id}/output", {}).get("get")
    return {
        "wait": any(parameter.get("name") == "wait" for parameter in parameters),
        "output": f"{download['tags'][0].replace(' ', '_')}.{download['operationId']}" if download else None,
    }


def check_report(report, document):
    """A job was submitted, read until it was completed, and downloaded if there is a route; a bad one was refused."""
    assert report["job"]["status"] == "completed"
    assert report["job"]["payload"] == {"rows": [{"name": "Alice", "score": 95}], "delimiter": ";"}
    assert report["refused"] == "invalid_request"
    assert report["output"] == ("name;score\nAlice;95\n" if routes(document)["output"] else None)


def streams(document):
    """Return the ids of operations whose answer has no end. What they send is read by tests of their own."""
    return [
        operation["operationId"]
        for methods in json.loads(document.read_text())["paths"].values()
        for operation in methods.values()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    ]


def test_schemathesis_finds_nothing(api, document, tmp_path):
    """Examples, coverage, fuzzing and sequences of requests: every answer is one that the document describes."""
    options = [
        "--checks",
        "all",
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--seed",
        "1",
        "--max-examples",
        "40",
    ]
    excluded = [option for name in streams(document) for option in ("--exclude-operation-id", name)]
    config = ["--config-file", TOOLS / "schemathesis.toml"]
    url = f"http://127.0.0.1:{api.api_port}/openapi.json"

    command = [sys.executable, "-m", "schemathesis.cli", *config, "run", url, *options, *excluded, "--no-color"]
    finished = run(command, cwd=tmp_path, SCHEMATHESIS_HOOKS="schemathesis_hooks", PYTHONPATH=str(TOOLS))

    assert finished.returncode == 0, finished.stdout[-20_000:] + finished.stderr[-2_000:]
    generated, passed = map(int, re.search(r"(\d+) generated, (\d+) passed", finished.stdout).groups())
    assert generated == passed > 500
    # What it sent was not only refused.
    assert api.get("/jobs?limit=10")[1]["next_cursor"]


def test_the_linter_finds_nothing(document, node_tools):
    redocly = [node_tools / "node_modules" / ".bin" / "redocly", "lint", "--config", TOOLS / "redocly.yaml"]

    finished = run([*redocly, "--max-problems", "50", document], cwd=node_tools, REDOCLY_TELEMETRY="off")

    report = finished.stdout + finished.stderr
    assert finished.returncode == 0, report
    assert "Your API description is valid" in report
    assert "warning" not in report.lower().replace("deprecation warning", ""), report


def test_a_generated_python_client_runs_a_job(api, document, python_tools, tmp_path):
    generator = [python_tools / "bin" / "openapi-python-client", "generate", "--path", document, "--meta", "none"]
    # It formats what it writes with the ruff beside it.
    path = f"{python_tools / 'bin'}:{os.environ['PATH']}"
    target = ["--config", TOOLS / "client.yaml", "--output-path", tmp_path / "jobs_client", "--fail-on-warning"]
    generated = run([*generator, *target], cwd=tmp_path, PATH=path)
    assert generated.returncode == 0, generated.stdout + generated.stderr

    client = [python_tools / "bin" / "python", TOOLS / "client.py", f"http://127.0.0.1:{api.api_port}"]
    finished = run([*client, json.dumps(routes(document))], cwd=tmp_path, PYTHONPATH=str(tmp_path))

    check_report(told(finished), document)


def test_a_generated_typescript_client_runs_a_job(api, document, node_tools, tmp_path):
    binaries = node_tools / "node_modules" / ".bin"
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "node_modules").symlink_to(node_tools / "node_modules")
    (folder / "package.json").write_text('{"type":"module"}')
    shutil.copy(TOOLS / "client.ts", folder)
    generator = [binaries / "openapi-typescript", document, "--default-non-nullable", "false", "--output", "api.ts"]
    compiler = [
        binaries / "tsc",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--skipLibCheck",
        "client.ts",
    ]

    for command in (generator, compiler):
        finished = run(command, cwd=folder)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    known = ",".join(name for name, value in routes(document).items() if value)
    finished = run(["node", "client.js", f"http://127.0.0.1:{api.api_port}", known], cwd=folder)

    check_report(told(finished), document)
