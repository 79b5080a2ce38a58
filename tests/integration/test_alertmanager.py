"""The Alertmanager on the configuration that Compose mounts: whom it tells, and what it keeps quiet meanwhile."""

import json
import urllib.request
from contextlib import suppress

import pytest
import yaml
from dashboards import MONITORING
from eventually import eventually
from monitoring_tools import ALERTMANAGER, needs_alertmanager

from devstack.servers import HOST, Server

pytestmark = needs_alertmanager

CONFIG = yaml.safe_load((MONITORING / "alertmanager" / "alertmanager.yml").read_text())


class Alertmanager(Server):
    name = "alertmanager"

    def __init__(self, folder, mail_port):
        super().__init__(folder)
        self.mail_port = mail_port

    def prepare(self):
        # As delivered, but for where its mail goes and how long it waits to see what else is wrong.
        CONFIG["global"]["smtp_smarthost"] = f"{HOST}:{self.mail_port}"
        CONFIG["route"]["group_wait"] = "1s"
        (self.folder / "alertmanager.yml").write_text(yaml.safe_dump(CONFIG))

    def command(self):
        files = (f"--config.file={self.folder}/alertmanager.yml", f"--storage.path={self.folder}/data")
        return [ALERTMANAGER, *files, f"--web.listen-address={HOST}:{self.port}", "--cluster.listen-address="]

    def answers(self):
        with suppress(OSError):
            return self.ask("/-/ready") is not None
        return False

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.read()

    def raise_alerts(self, *alerts):
        notes = {"summary": "Something is wrong", "description": "It is."}
        self.ask("/api/v2/alerts", [{"labels": labels, "annotations": notes} for labels in alerts])

    def states(self):
        """Return {name: state}: active, or suppressed by another alert."""
        return {
            alert["labels"]["alertname"]: alert["status"]["state"] for alert in json.loads(self.ask("/api/v2/alerts"))
        }


@pytest.fixture(scope="module")
def alertmanager(mail, tmp_path_factory):
    with Alertmanager(tmp_path_factory.mktemp("alertmanager"), mail.port) as server:
        yield server


def alert(name, severity, **labels):
    return {"alertname": name, "severity": severity, "team": "jobs", **labels}


def test_the_cause_is_told_and_what_it_brings_about_is_not(alertmanager, mail):
    alertmanager.raise_alerts(
        alert("JobsWorkersAllDown", "critical"),
        alert("JobsMaintenanceStopped", "critical", service="relay"),
        alert("JobsQueueStalled", "critical", queue_name="default"),
        alert("JobsRedisMemoryHigh", "warning"),
        alert("JobsVersionSkew", "info"),
    )

    eventually(lambda: told_of(mail) == {"JobsWorkersAllDown", "JobsRedisMemoryHigh"}, what="two mails")
    assert {
        "JobsWorkersAllDown": "active",
        "JobsMaintenanceStopped": "suppressed",
        "JobsQueueStalled": "suppressed",
        "JobsRedisMemoryHigh": "active",
        "JobsVersionSkew": "active",
    } == alertmanager.states()


def told_of(mail):
    """Return the alerts that are the subject of a mail."""
    subjects = [message["subject"] for message in mail.messages()]
    return {word for subject in subjects for word in subject.split() if word.startswith("Jobs")}
