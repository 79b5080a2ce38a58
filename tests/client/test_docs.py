"""The examples of docs/client.md, as they are, against the service."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL)

#: What an example prints, by its first line that tells it from the others.
PRINTS = {
    'with Client("http://localhost:3000")': r"completed output/[0-9a-f-]{36}\.csv\n[0-9a-f-]{36}\.csv\n",
    "async with AsyncClient()": r"(?s).*completed\n",
    "submit_many": "",
    "except InvalidRequest": r"/priority .+\n",
    "FakeApi": "",
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_it_says(api, example, tmp_path):
    address = f"http://127.0.0.1:{api.api_port}"
    [expected] = [text for mark, text in PRINTS.items() if mark in example]

    done = subprocess.run(
        [sys.executable, "-c", example.replace("http://localhost:3000", address)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JOBS_URL": address},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert re.fullmatch(expected, done.stdout)


def test_every_example_is_known():
    assert len(PRINTS) == len(EXAMPLES)
