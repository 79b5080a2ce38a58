"""The commands that the console shows: what a shell makes of them is the request."""

import json
import os
import subprocess

import msgspec
import pytest

from jobs_service.api.console.curl import as_curl

URL = "http://localhost:3000/jobs"


def arguments(command):
    """Return what a shell gives to curl."""
    script = f"curl() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    ran = subprocess.run(["sh", "-c", script], env=os.environ | {"JOBS_KEY": "a key"}, capture_output=True, check=True)
    return ran.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "it's",
        "'; rm -rf / #",
        '"double"',
        "$HOME `id` $(id) !! \\",
        "a\nb\tc",
        "ünïcode 漢字 🙂",
        "@file",
        "<script>",
    ],
)
def test_a_shell_passes_the_body_on_as_it_is(text):
    words = arguments(as_curl("POST", URL, {"type": "t", "payload": {"text": text}}, has_key=False))

    assert [URL, "-H", "Content-Type: application/json", "-d"] == words[:-1]
    assert {"type": "t", "payload": {"text": text}} == json.loads(words[-1])


def test_the_key_comes_from_a_variable_that_the_shell_replaces():
    assert "Authorization: Bearer a key" in arguments(as_curl("POST", URL, {}, has_key=True))
    assert "Authorization" not in as_curl("POST", URL, {}, has_key=False)


def test_the_method_is_named_where_it_is_not_curls_own_choice():
    assert f"curl {URL}" == as_curl("GET", URL, has_key=False)
    assert f"curl -X POST {URL}/1/cancel" == as_curl("POST", f"{URL}/1/cancel", has_key=False)
    assert as_curl("PATCH", URL, {"priority": 9}, has_key=False).startswith(f"curl -X PATCH {URL} ")


def test_an_address_with_signs_of_the_shell_is_quoted():
    address = f"{URL}?status=failed&q=it's"

    assert [address] == arguments(as_curl("GET", address, has_key=False))


def test_characters_that_cannot_be_seen_are_escaped():
    """A text could otherwise look like another one on the screen (CVE-2021-42574)."""
    command = as_curl("POST", URL, {"payload": "a\u202eb\u200b"}, has_key=False)

    assert r"a\u202eb\u200b" in command
    assert {"payload": "a\u202eb\u200b"} == json.loads(arguments(command)[-1])


def test_json_text_stays_as_it_is():
    command = as_curl("POST", URL, {"payload": msgspec.Raw(b'{"score":1.50,"big":1e30}')}, has_key=False)

    assert '{"score":1.50,"big":1e30}' in command
