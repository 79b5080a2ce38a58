"""The Compose stack of this checkout, as its user drives it: with the `docker` command."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report import CheckError, eventually, expect, say

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "async-job-system"
SERVICES = ("alertmanager", "app", "db", "grafana", "mailhog", "prometheus", "redis", "worker")
#: The system is whole without it, so it is left out where its image is not to be had.
OPTIONAL = "alertmanager"
LABEL = f"label=com.docker.compose.project={PROJECT}"

#: Seconds from `up` to healthy: the slowest image's first start, on a slow disk.
HEALTHY_SECONDS = 180
#: Seconds for one docker command: a first build downloads the requirements, a stop may wait for the workers' grace.
COMMAND_SECONDS = 900


class StackError(Exception):
    """The stack does not come up: there is nothing to check."""


class Stack:
    def __init__(self) -> None:
        self.services = SERVICES

    def can_run(self) -> bool:
        """Tell whether an engine answers that has every image needed, and a Compose that knows optional env files."""
        try:
            version = re.search(r"(\d+)\.(\d+)", self.compose("version", "--short"))
            images = {*self.compose("config", "--images").split(), os.environ.get("PYTHON_IMAGE", "python:3.13-slim")}
            needed = {image for image in images if not image.startswith(PROJECT)} - {self._image(OPTIONAL)}
            self.docker("image", "inspect", "--format", "{{.Id}}", *sorted(needed))
        except (CheckError, OSError):
            return False
        return bool(version) and (int(version[1]), int(version[2])) >= (2, 24)

    def in_the_way(self) -> str:
        """Return why the stack must not be started, or nothing. Its removal would take somebody's data with it."""
        if not shutil.which("docker") or not shutil.which("curl"):
            return "docker and curl are needed"
        try:
            left = self.left_over()
        except CheckError as error:
            return str(error)
        if not left:
            return ""
        return (
            f"a stack named {PROJECT} is here already ({', '.join(left)}), and this test ends with removing it and "
            "its data. If they may go: docker compose down -v"
        )

    def left_over(self) -> list[str]:
        """Return the names of the project's containers and volumes."""
        return [
            *self.docker("ps", "--all", "--filter", LABEL, "--format", "{{.Names}}").split(),
            *self.docker("volume", "ls", "--filter", LABEL, "--format", "{{.Name}}").split(),
        ]

    def leave_out_what_is_not_to_be_had(self) -> None:
        """Go on without the optional service when its image is neither here nor can be pulled."""
        try:
            self.docker("image", "inspect", "--format", "{{.Id}}", self._image(OPTIONAL))
        except CheckError:
            try:
                self.compose("pull", "--quiet", OPTIONAL)
            except CheckError:
                say(f"note    without {OPTIONAL}: its image {self._image(OPTIONAL)} is not to be had here")
                self.services = tuple(name for name in SERVICES if name != OPTIONAL)

    def up(self) -> None:
        """`docker compose up -d --build`, and wait until everything is healthy."""
        try:
            self.compose("build")
        except CheckError as error:
            say(f"note    building without BuildKit, because with it: {str(error).splitlines()[-1]}")
            os.environ["DOCKER_BUILDKIT"] = "0"
        try:
            self.start("--build")
            self.wait_until_healthy()
        except CheckError as error:
            raise StackError(error) from error

    def start(self, *options: str) -> None:
        """`docker compose up -d`, with the services named only when one is left out."""
        self.compose("up", "-d", *options, *(() if self.services == SERVICES else self.services))

    def wait_until_healthy(self, *services: str) -> None:
        wanted = services or self.services
        eventually(lambda: self._all_healthy(wanted), seconds=HEALTHY_SECONDS, every=1)

    def containers(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what `docker compose ps` shows: one object a container."""
        text = self.compose("ps", "--format", "json", *arguments).strip()
        # An array in some versions of Compose, an object a line in others.
        return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]

    def url(self, service: str, port: int) -> str:
        return "http://" + self.compose("port", service, str(port)).strip()

    def inspect(self, *containers: str) -> list[dict[str, Any]]:
        return json.loads(self.docker("inspect", *containers))

    def compose(self, *arguments: str) -> str:
        return self.docker("compose", "--ansi", "never", *arguments)

    def docker(self, *arguments: str) -> str:
        """Run a docker command and return what it prints. Raises `CheckError` with what it complains about."""
        done = subprocess.run(
            ["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
        )
        if done.returncode:
            raise CheckError(f"docker {' '.join(arguments)}: {done.stderr.strip()[-1500:]}")
        return done.stdout

    def logs(self, service: str) -> str:
        """Return what a service has said on both streams."""
        done = subprocess.run(
            ["docker", "compose", "--ansi", "never", "logs", "--no-color", "--no-log-prefix", service],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout

    def show_what_went_wrong(self) -> None:
        """Print the end of the logs of our services, and of every other that is not healthy."""
        with contextlib.suppress(CheckError, ValueError):
            shown = self.containers("--all")
            say("\n" + self.compose("ps", "--all"))
            bad = {one["Service"] for one in shown if one.get("Health") != "healthy" and one.get("ExitCode") != 0}
            for service in sorted({"app", "worker", "migrate"} | bad):
                say(f"--- {service}")
                say("\n".join(self.logs(service).splitlines()[-60:]))

    def remove(self) -> None:
        try:
            self.compose("down", "--volumes", "--remove-orphans")
        except CheckError as error:
            say(f"note    {error}")

    def _image(self, service: str) -> str:
        return json.loads(self.compose("config", "--format", "json"))["services"][service]["image"]

    def _all_healthy(self, services: tuple[str, ...]) -> bool:
        seen = self.containers()
        expect([], [one["Name"] for one in seen if one["Service"] in services and one["Health"] != "healthy"], "health")
        expect(set(), set(services) - {one["Service"] for one in seen}, "not there")
        return True


@contextlib.contextmanager
def env_file(stack: Stack) -> Iterator[None]:
    """Make .env from .env.example, as the brief asks, unless there is one; the stack must be the same without."""
    file = ROOT / ".env"
    if file.exists():
        say("note    your .env is used")
        yield
        return
    without = stack.compose("config")
    shutil.copy(ROOT / ".env.example", file)
    try:
        if without != stack.compose("config"):
            raise StackError("docker compose config: .env.example changes the stack, so one of the two is wrong")
        yield
    finally:
        file.unlink()
