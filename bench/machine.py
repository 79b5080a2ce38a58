"""Describes where the figures come from: the machine, without its name, and the versions."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil

from bench.servers import Servers
from bench.systems import ROOT

PACKAGES = ("dramatiq", "falcon", "gunicorn", "peewee", "psycopg2-binary", "redis")


def describe(servers: Servers) -> dict[str, str]:
    return {
        "machine": f"{os.cpu_count()} x {_processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}, load {os.getloadavg()[0]:.2f} at the start",
        "servers": f"PostgreSQL {_postgres(servers)}; Valkey {_valkey(servers)}, no AOF",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "commit": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _postgres(servers: Servers) -> str:
    with contextlib.closing(servers.connect()) as connection:
        settings = {name: connection.run(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
        version = connection.run("SHOW server_version")
    return ", ".join([version, *(f"{name} {value}" for name, value in settings.items())])


def _valkey(servers: Servers) -> str:
    info = servers.redis().info("server")
    return info.get("valkey_version") or info["redis_version"]


def _commit() -> str:
    """Return the project's commit, or "unknown"."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
