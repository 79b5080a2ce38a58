"""What the benchmark compares, and what becomes of a system that this machine cannot have."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command, packages, systems
from bench.errors import Failed

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "bench" / "node"


@pytest.fixture
def had(monkeypatch, tmp_path):
    """Have all packages at hand, so that nothing is installed."""
    monkeypatch.setattr(packages, "node", lambda: tmp_path)
    monkeypatch.setattr(packages, "node_versions", lambda: "Node.js v20")
    monkeypatch.setattr(packages, "celery", lambda: tmp_path / "python")


def chosen(*arguments):
    """Return the names of what is compared, and what is left out."""
    options = command._parser().parse_args(arguments)
    compared, left_out = command._systems(options, command._plan(options))
    return [system.name for system in compared], left_out


@pytest.mark.usefixtures("had")
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["straightforward", "celery", "node", "ours"]),
        (["--systems", "ours,node"], ["node", "ours"]),
        (["--phases", "clients"], ["node", "ours"]),
        (["--phases", "clients", "--systems", "ours"], ["ours"]),
        (["--phases", "clients,load"], ["straightforward", "celery", "node", "ours"]),
        (["--systems", "ours", "--variant", "16 threads:API_THREADS=16"], ["ours", "16 threads"]),
        (["--metrics"], ["bare", "ours"]),
    ],
)
def test_the_options_say_what_is_compared(arguments, names):
    assert (names, {}) == chosen(*arguments)


@pytest.mark.parametrize("arguments", [["--systems", "rails"], ["--phases", "nap"], ["--metrics", "--systems", "ours"]])
def test_what_is_not_known_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        chosen(*arguments)

    assert re.search("expected some of|not allowed with", capsys.readouterr().err)


@pytest.mark.usefixtures("had")
def test_what_cannot_be_had_is_left_out_with_its_reason(monkeypatch, capsys):
    def missing():
        raise packages.Missing("no Node.js with npm here")

    monkeypatch.setattr(packages, "node", missing)

    names, left_out = chosen()

    assert ["straightforward", "celery", "ours"] == names
    assert {"node": "no Node.js with npm here"} == left_out
    assert "bench: node is left out: no Node.js with npm here\n" == capsys.readouterr().err
    assert {"left out, node": "no Node.js with npm here"} == command._facts([], left_out)


def test_a_run_with_nothing_to_measure_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Failed, match="nothing is left to measure"):
        chosen("--systems", "node")


def test_without_node_there_is_a_plain_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(packages.Missing, match=r"no Node\.js with npm here"):
        packages.node(tmp_path / "packages")


class Npm:
    """Stands for Node.js and npm: notes how often it installed."""

    def __init__(self, folder, monkeypatch):
        self.calls = folder / "calls"
        self.program("node", "echo v20.1.0")
        self.succeed()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def succeed(self):
        self.program("npm", f"echo . >> {self.calls}; mkdir node_modules; cp package-lock.json node_modules/")

    def fail(self):
        self.program("npm", f"echo . >> {self.calls}; mkdir node_modules; echo 'npm error network' >&2; exit 1")

    def program(self, name, script):
        path = self.calls.parent / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def installed(self):
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def npm(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    return Npm(tmp_path / "bin", monkeypatch)


def test_packages_are_installed_once(npm, tmp_path):
    folder = tmp_path / "packages"

    found = [packages.node(folder), packages.node(folder)]

    assert [folder / "node_modules"] * 2 == found
    assert 1 == npm.installed
    assert (NODE / "package-lock.json").read_bytes() == (folder / "node_modules/package-lock.json").read_bytes()


def test_other_pins_are_installed_anew(npm, tmp_path, monkeypatch):
    pins = shutil.copytree(NODE, tmp_path / "pins")
    monkeypatch.setattr(packages, "NODE_FILES", pins)
    packages.node(tmp_path / "packages")

    (pins / "package-lock.json").write_text("{}")
    packages.node(tmp_path / "packages")

    assert 2 == npm.installed


def test_half_an_installation_is_not_taken_for_one(npm, tmp_path):
    npm.fail()
    with pytest.raises(packages.Missing, match="its packages cannot be installed: npm error network"):
        packages.node(tmp_path / "packages")

    npm.succeed()
    packages.node(tmp_path / "packages")

    assert 2 == npm.installed


def test_an_old_node_is_left_alone(npm, tmp_path):
    npm.program("node", "echo v18.20.4")

    with pytest.raises(packages.Missing, match=r"Node\.js v18\.20\.4 is older than 20"):
        packages.node(tmp_path / "packages")

    assert 0 == npm.installed


def test_celery_that_cannot_be_installed_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "CELERY_REQUIREMENTS", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text("no such file or package ==\n")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    with pytest.raises(packages.Missing, match="its packages cannot be installed: exit code 1"):
        packages.celery(tmp_path / "celery")


def test_node_packages_are_pinned_and_come_from_no_registry_by_name():
    pins = json.loads((NODE / "package.json").read_text())["dependencies"]
    lock = json.loads((NODE / "package-lock.json").read_text())["packages"]

    assert {"express", "ioredis", "pg"} == set(pins)
    assert pins == {name: lock[f"node_modules/{name}"]["version"] for name in pins}
    assert all("integrity" in package for name, package in lock.items() if name)
    assert not any("resolved" in package for package in lock.values())


def test_celery_packages_are_pinned():
    lines = packages.CELERY_REQUIREMENTS.read_text().splitlines()

    pins = [line for line in lines if not line.startswith(("#", "-r"))]

    assert "-r ../../requirements.txt" in lines
    assert all(re.fullmatch(r"[a-z_-]+==[0-9.a-z]+", pin) for pin in pins)


NODE_CSV = """
const { generateCsv } = require(process.argv[1])
process.stdout.write(JSON.stringify(JSON.parse(process.argv[2]).map(generateCsv)))
"""


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js here")
def test_node_makes_the_same_text():
    """Of each payload that the two understand alike; a number with many digits, for one, JavaScript cannot hold."""
    from actors.generate_csv import to_csv

    payloads = [
        {"name": "Alice", "score": 95},
        [{"a": 1, "b": "x"}, {"b": None, "c": True}],
        {"quoted": 'a "b"', "comma": "a,b", "line": "a\nb", "formula": "=1+1", "number": "-1.5", "list": [1, "é"]},
        [],
        {},
    ]

    ran = subprocess.run(
        ["node", "-e", NODE_CSV, str(NODE / "src" / "csv.js"), json.dumps(payloads)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert [to_csv(payload) for payload in payloads] == json.loads(ran.stdout)


@pytest.mark.usefixtures("had")
def test_all_have_the_same_processes_and_threads():
    sizes = {name: make() for name, make in systems.SYSTEMS.items()}

    for name in ("straightforward", "celery"):
        api = sizes[name].api
        assert ("2", "16") == (api[api.index("--workers") + 1], api[api.index("--threads") + 1])
    straightforward, celery, node, ours = (sizes[name] for name in ("straightforward", "celery", "node", "ours"))
    assert ["--processes", "2", "--threads", "16"] == straightforward.worker[1:5]
    assert (2, "16") == (celery.workers, celery.worker[celery.worker.index("--concurrency") + 1])
    assert (2, "2", "16") == (node.workers, node.environment["API_PROCESSES"], node.environment["WORKER_THREADS"])
    assert {"2"} == {ours.environment[f"{role}_PROCESSES"] for role in ("API", "WORKER")}
    assert {"16"} == {ours.environment[f"{role}_THREADS"] for role in ("API", "WORKER")}
