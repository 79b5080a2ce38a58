"""docker-compose.yml keeps its promises: pinned, healthy, private, read-only, and patient when it stops."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from jobs_service.config import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()

ONE_SHOTS = {"migrate", "prepare-output"}
OURS = {"app", "worker"} | ONE_SHOTS
SERVERS = SERVICES.keys() - ONE_SHOTS

#: The compose file as it is with no .env.
DEFAULTS = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text()))


def with_defaults(text: str) -> str:
    return re.sub(r"\$\{([A-Z_]+):-[^}]*\}", lambda found: DEFAULTS[found[1]], text)


def seconds(duration: str) -> int:
    found = re.fullmatch(r"(\d+)s", with_defaults(duration))
    assert found, f"{duration} is not in seconds"
    return int(found[1])


def test_the_services_of_the_brief_are_there_under_its_project_name():
    assert "async-job-system" == COMPOSE["name"]
    assert {"app", "worker", "db", "redis", "mailhog", "prometheus", "alertmanager", "grafana"} == SERVERS


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_image_is_pinned_and_can_be_replaced(name):
    image = SERVICES[name]["image"]

    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[^}]+:[^}]+\}", image)
    assert not with_defaults(image).endswith(":latest")


def test_the_api_may_be_open_because_only_this_machine_reaches_it():
    app = SERVICES["app"]

    assert "true" == app["environment"]["ALLOW_ANONYMOUS"]
    assert app["ports"]
    assert all(port.startswith("127.0.0.1:") for port in app["ports"])
    assert "ALLOW_ANONYMOUS" not in DOCKERFILE


def test_the_images_are_the_ones_decided_on():
    images = {name: with_defaults(SERVICES[name]["image"]) for name in SERVERS - OURS}

    assert {
        "db": "postgres:17",
        "redis": "redis:8",
        "mailhog": "axllent/mailpit:v1.31.1",
        "prometheus": "prom/prometheus:v3.13.2",
        "alertmanager": "prom/alertmanager:v0.34.0",
        "grafana": "grafana/grafana:13.2.3",
    } == images


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_every_server_is_watched_and_started_again(name):
    service = SERVICES[name]

    assert service["healthcheck"]["test"]
    assert seconds(service["healthcheck"]["timeout"]) < 10
    assert "unless-stopped" == service["restart"]


@pytest.mark.parametrize("name", sorted(ONE_SHOTS))
def test_a_one_shot_runs_once(name):
    assert "no" == SERVICES[name]["restart"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_ports_are_published_on_loopback_only(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_neither_database_redis_nor_metrics_are_published():
    published = {name for name in SERVICES if SERVICES[name].get("ports")}

    assert {"app", "mailhog", "prometheus", "alertmanager", "grafana"} == published


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_stands_in_the_way_of_scaling_or_of_the_names_in_the_brief(name):
    assert "container_name" not in SERVICES[name]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_process_can_gain_privileges(name):
    assert ["no-new-privileges:true"] == SERVICES[name]["security_opt"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_image_runs_read_only_without_capabilities(name):
    service = SERVICES[name]

    assert service["read_only"] is True
    assert ["ALL"] == service["cap_drop"]
    assert ["/tmp"] == [mount.split(":")[0] for mount in service["tmpfs"]]


def test_metrics_files_lie_on_the_tmpfs_whose_folder_every_image_has():
    assert "/tmp/metrics" == SERVICES["worker"]["environment"]["PROMETHEUS_MULTIPROC_DIR"]
    assert "PROMETHEUS_MULTIPROC_DIR=/tmp/metrics" in DOCKERFILE


def test_the_only_root_is_the_one_that_opens_the_output_folder():
    roots = {name for name in OURS if SERVICES[name].get("user")}

    assert {"prepare-output"} == roots
    assert ["CHOWN", "FOWNER"] == SERVICES["prepare-output"]["cap_add"]
    assert "none" == SERVICES["prepare-output"]["network_mode"]
    assert "USER 10001:10001" in DOCKERFILE
    assert "chgrp 10001 output" in SERVICES["prepare-output"]["command"][0]


def test_app_and_worker_wait_for_the_schema():
    for name in ("app", "worker"):
        assert "service_completed_successfully" == SERVICES[name]["depends_on"]["migrate"]["condition"]
    assert "service_healthy" == SERVICES["migrate"]["depends_on"]["db"]["condition"]


def test_docker_waits_longer_for_workers_than_they_for_their_jobs():
    patience = Settings.from_env({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"}).worker_shutdown_seconds

    assert patience + 10 <= seconds(SERVICES["worker"]["stop_grace_period"])


def test_docker_waits_longer_for_the_api_than_gunicorn_for_its_requests():
    graceful = re.search(
        r"^graceful_timeout = (\d+)$", (ROOT / "jobs_service/api/gunicorn_config.py").read_text(), re.MULTILINE
    )

    assert int(graceful[1]) + 10 <= seconds(SERVICES["app"]["stop_grace_period"])


def test_redis_keeps_what_it_has_taken():
    command = shlex.split(with_defaults(SERVICES["redis"]["command"]))
    options = dict(zip(command[1::2], command[2::2], strict=True))

    assert "yes" == options["--appendonly"]
    assert "everysec" == options["--appendfsync"]
    assert "noeviction" == options["--maxmemory-policy"]
    assert "--maxmemory" in options


def test_servers_keep_their_data_in_named_volumes():
    mounted = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }

    assert COMPOSE["volumes"].keys() == mounted


def test_configuration_is_mounted_read_only():
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", []) if "./monit" in volume]

    assert mounts
    assert all("ro" in mount.split(":")[2].split(",") for mount in mounts)


def test_mounted_folders_exist():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).is_dir(), f"{source} is mounted, but not there"


def test_an_env_file_is_optional():
    for name in OURS:
        assert [{"path": ".env", "required": False}] == SERVICES[name]["env_file"]


def test_the_database_is_the_one_that_the_default_url_names():
    made = SERVICES["db"]["environment"]
    url = f"postgresql://{made['POSTGRES_USER']}:{made['POSTGRES_PASSWORD']}@db:5432/{made['POSTGRES_DB']}"

    assert DEFAULTS["DATABASE_URL"] == url


def test_the_image_has_its_base_as_an_argument_and_no_development_requirements():
    assert "ARG PYTHON_IMAGE=python:3.13-slim" in DOCKERFILE
    assert "requirements-dev" not in DOCKERFILE
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_health_checks_name_the_ports_that_prometheus_scrapes():
    config = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())
    scraped = {
        found["names"][0]: found["port"] for job in config["scrape_configs"] for found in job.get("dns_sd_configs", [])
    }

    assert {"app": 3000, "worker": 9191, "alertmanager": 9093} == scraped
    for name, port in scraped.items():
        assert f"127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]


def test_nothing_waits_for_the_alertmanager():
    """A stack may run without it: `--scale alertmanager=0`, or where its image is not to be had."""
    assert not [name for name in SERVICES if "alertmanager" in SERVICES[name].get("depends_on", {})]
