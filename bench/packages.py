"""The packages that only comparators need: installed below `.local/bench/` at the first run, never beside our own."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
NODE_FILES = ROOT / "bench" / "node"
CELERY_REQUIREMENTS = ROOT / "bench" / "celery_app" / "requirements.txt"
INSTALLED = ROOT / ".local" / "bench"
INSTALL_SECONDS = 300
OLDEST_NODE = 20

#: Registries that do not answer are given up soon: what cannot be had is left out.
_NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=10000")
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1", "--timeout=10")


class Missing(Exception):
    """A comparator cannot be had on this machine. The text is one line that says why."""


def node(folder: Path = INSTALLED / "node") -> Path:
    """Return the folder of the Node.js packages; install them where they are not. Raises `Missing`."""
    _check_node()
    files = [NODE_FILES / name for name in ("package.json", "package-lock.json")]
    if not _is_installed(folder, files):
        _empty(folder)
        for file in files:
            shutil.copy(file, folder)
        _run(_NPM, folder)
        _note_installed(folder, files)
    return folder / "node_modules"


def celery(folder: Path = INSTALLED / "celery") -> Path:
    """Return the Python that has Celery; install it where it is not. Raises `Missing`."""
    files = [CELERY_REQUIREMENTS, ROOT / "requirements.txt"]
    python = folder / "bin" / "python"
    if not _is_installed(folder, files):
        _empty(folder)
        _run([sys.executable, "-m", "venv", str(folder)], ROOT)
        _run([str(python), *_PIP, "--requirement", str(CELERY_REQUIREMENTS)], ROOT)
        _note_installed(folder, files)
    return python


def node_versions() -> str:
    pins = json.loads((NODE_FILES / "package.json").read_text())["dependencies"]
    return ", ".join([f"Node.js {_output(['node', '--version'])}", *(f"{name} {pins[name]}" for name in sorted(pins))])


def celery_versions() -> str:
    pins = dict(line.split("==") for line in CELERY_REQUIREMENTS.read_text().splitlines() if "==" in line)
    return f"celery {pins['celery']}, kombu {pins['kombu']}"


def _check_node() -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        raise Missing("no Node.js with npm here")
    version = _output(["node", "--version"])
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        raise Missing(f"Node.js {version} is older than {OLDEST_NODE}")


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _empty(folder: Path) -> None:
    """Remove what an earlier installation left, which may be half of one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"its packages cannot be installed: {error}") from None
    if ran.returncode:
        lines = [line for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
        raise Missing(f"its packages cannot be installed: {lines[0] if lines else f'exit code {ran.returncode}'}")


def _is_installed(folder: Path, files: Sequence[Path]) -> bool:
    """Tell whether an installation from files like these was finished."""
    note = folder / "installed"
    return note.exists() and note.read_text() == _digest(files)


def _note_installed(folder: Path, files: Sequence[Path]) -> None:
    (folder / "installed").write_text(_digest(files))


def _digest(files: Sequence[Path]) -> str:
    """Return what stands for the content of the files, and for the Python whose packages an environment uses."""
    return hashlib.sha256(b"".join([sys.version.encode(), *(file.read_bytes() for file in files)])).hexdigest()
