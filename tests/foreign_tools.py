"""Programs that were not written here, pinned in tests/openapi/ and installed into environments of their own."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from service import ROOT

TOOLS = ROOT / "tests" / "openapi"
#: Seconds that no program takes. Whatever takes longer hangs.
PATIENCE = 600


@pytest.fixture(scope="session")
def node_tools():
    """The folder with node_modules."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed here")
    commands = [["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]]
    return installed("node", [TOOLS / "package.json", TOOLS / "package-lock.json"], lambda _: commands)


@pytest.fixture(scope="session")
def python_tools():
    """The folder of the virtual environment."""

    def commands(folder):
        pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        return [[sys.executable, "-m", "venv", folder], [*pip, "--requirement", TOOLS / "requirements.txt"]]

    return installed("python", [TOOLS / "requirements.txt"], commands)


def installed(name, files, commands):
    """Return a folder below .local/ with what the files pin, filled by the commands unless it is there already."""
    version = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    folder = ROOT / ".local" / "openapi" / f"{name}-{version}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Test files run in processes of their own, side by side.
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            fill(folder, files, commands)
    return folder


def fill(folder, files, commands):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in files:
        shutil.copy(path, folder)
    for command in commands(folder):
        finished = run(command, cwd=folder)
        if finished.returncode:
            pytest.skip(f"{Path(command[0]).name} cannot install its packages here: {finished.stderr[-300:]}")
    (folder / "done").touch()


def run(command, *, cwd, **environ):
    """Run a program to its end."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
