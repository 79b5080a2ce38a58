"""The commands of docs/api.md, word for word, and what the page says that they answer."""

import json
import os
import re
import subprocess
from http import HTTPStatus

import pytest
from service import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text().partition("\n## With curl\n")[2].partition("\n## ")[0]

#: Commands, each with the answer that the page shows below it.
EXAMPLES = re.findall(r"```bash\n(curl .*?)```\n\n```http\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def curl(service):
    """Run a command of the page. Returns what it prints."""
    service.start_api()

    def curl(command, **environ):
        command = command.replace("localhost:3000", f"localhost:{service.api_port}")
        silent = f'curl() {{ command curl -sS --max-time 30 "$@"; }}; {command}'
        finished = subprocess.run(
            ["bash", "-c", silent], env={**os.environ, **environ}, capture_output=True, text=True, check=True
        )
        return finished.stdout

    return curl


def parts(answer):
    """Return the status, the headers and the decoded body of an answer as curl -i prints it."""
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body)


def difference(shown, real, place=""):
    """Return where an answer is not like the one shown, or None: it has its fields, and values of the same types."""
    if type(shown) is not type(real):
        return f"{place}: {real!r}"
    if isinstance(shown, dict):
        items = [(f"{place}/{name}", item, real.get(name)) for name, item in shown.items()]
        missing = [f"{place}/{name} is missing" for name in shown if name not in real]
    elif isinstance(shown, list):
        items = [(f"{place}/{index}", *pair) for index, pair in enumerate(zip(shown, real, strict=False))]
        missing = [] if len(shown) == len(real) else [f"{place} has {len(real)} items"]
    else:
        return None
    return next(filter(None, (*missing, *(difference(*pair, where) for where, *pair in items))), None)


def test_every_command_of_the_page_has_an_answer():
    assert len(EXAMPLES) >= 5
    assert len(EXAMPLES) == PAGE.count("```bash\ncurl") == PAGE.count("```http")


def test_the_commands_answer_what_the_page_shows(curl):
    job_id = ""
    for command, shown in EXAMPLES:
        status, headers, body = parts(curl(command, JOB_ID=job_id))
        expected_status, expected_headers, expected_body = parts(shown)

        assert (expected_status, HTTPStatus(expected_status).phrase in shown) == (status, True), body
        assert set(expected_headers) <= set(headers), command
        assert headers["content-type"] == expected_headers.get("content-type", "application/json")
        assert difference(expected_body, body) is None, command
        job_id = body.get("job_id", job_id)


@pytest.mark.parametrize("real", [{}, {"a": {}}, {"a": {"b": "1"}}, {"a": {"b": None}}, {"a": {"b": 1}, "c": []}])
def test_a_wrong_answer_on_the_page_would_be_noticed(real):
    assert difference({"a": {"b": 1}, "c": [{}]}, real) is not None


def test_an_answer_may_have_more_fields_than_the_page_shows():
    assert difference({"a": {"b": 1}, "c": [{}]}, {"a": {"b": 2, "x": 0}, "c": [{"y": 0}], "z": 0}) is None
