"""The version of the code that a process runs: that of the service, and a digest of the files."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import jobs_service


def code_version(modules: Iterable[str]) -> str:
    """Return a version such as 0.1.0+4f1c2ab0 (PEP 440), which differs wherever the code does.

    `modules` are the names of those that job types were taken from. Where they are in a package, all of it counts.
    """
    digest = hashlib.sha256()
    for path in sorted({*_files(jobs_service.__name__), *(path for name in modules for path in _files(name))}):
        digest.update(path.name.encode() + path.read_bytes())
    return f"{jobs_service.__version__}+{digest.hexdigest()[:8]}"


def _files(name: str) -> Iterator[Path]:
    """Yield the files of a module's outermost package, or its own."""
    module = sys.modules[name.partition(".")[0]]
    if module.__file__ is None:
        return
    path = Path(module.__file__)
    yield from path.parent.rglob("*.py") if hasattr(module, "__path__") else [path]
