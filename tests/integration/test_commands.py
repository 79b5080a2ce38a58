"""What the commands say of servers and settings that an operator has to mend: one line, and no traceback."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import falcon.testing
import pytest
from eventually import eventually
from old_servers import old_postgres, old_redis
from proxy import Proxy

from devstack.servers import HOST
from jobs_service.api.app import create_app
from jobs_service.config import Settings
from jobs_service.readiness import preflight

ROOT = Path(__file__).parents[2]

COMMANDS = ("api", "worker", "check", "migrate")


@pytest.fixture
def run(environ, free_port):
    """Run a command that is to end by itself, with changes to the environment."""
    environ |= {"PATH": os.environ["PATH"], "API_PORT": str(free_port()), "WORKER_METRICS_PORT": str(free_port())}

    def run(command, **changes):
        argv = [sys.executable, "-m", "jobs_service", command]
        return subprocess.run(
            argv, cwd=ROOT, env=environ | changes, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def assert_refused(done, command, *words):
    assert 1 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert 1 == len(done.stderr.splitlines()), done.stderr
    assert done.stderr.startswith(f"{command}: ")
    for word in words:
        assert word in done.stderr


@contextmanager
def a_database(postgres, name, options=""):
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
    try:
        yield postgres.url_of(name)
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def user_url(postgres, environ):
    """The URL of a role that may touch the rows of all tables, and nothing else."""
    url = environ["DATABASE_URL"]
    name = url.rpartition("/")[2]
    user = f"clerk_of_{name}"
    postgres.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret'", name)
    postgres.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}", name)
    yield url.replace(f"{postgres.USER}:{postgres.PASSWORD}", f"{user}:secret")
    postgres.execute(f"DROP OWNED BY {user}", name)
    postgres.execute(f"DROP ROLE {user}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_postgresql_that_is_too_old_is_named_with_the_version_that_is_needed(run, command):
    with old_postgres("14.11") as url:
        assert_refused(run(command, DATABASE_URL=url), command, "PostgreSQL 14.11 is too old", "15 or newer is needed")


@pytest.mark.parametrize("command", ["api", "worker", "check"])
def test_a_redis_that_is_too_old_is_named_with_the_version_that_is_needed(run, command):
    with old_redis("6.2.14") as url:
        assert_refused(run(command, REDIS_URL=url), command, "Redis 6.2.14 is too old", "7.0 or newer is needed")


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.4.0", "10.0.1"])
def test_a_redis_that_is_new_enough_will_do(settings, version):
    with old_redis(version) as url:
        preflight.look_at_redis(preflight.redis_client(_with(settings, REDIS_URL=url)))


def test_a_redis_user_who_may_not_ask_for_the_version_will_do(settings, valkey):
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "+@all", "-info")
    url = settings.redis_url.replace("redis://", "redis://plain:secret@")

    preflight.look_at_redis(preflight.redis_client(_with(settings, REDIS_URL=url)))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_in_another_encoding_is_refused_by_name(run, postgres, command, encoding):
    with a_database(postgres, "encoded", f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'") as url:
        assert_refused(run(command, DATABASE_URL=url), command, f"encoded is encoded in {encoding}", "UTF8 is needed")


def test_readyz_names_what_is_too_old_or_wrongly_encoded(settings, postgres):
    with ExitStack() as stack:
        old = stack.enter_context(old_postgres("13.14"))
        redis = stack.enter_context(old_redis("6.2.14"))
        latin = stack.enter_context(a_database(postgres, "latin", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"))

        status, checks = _readyz(settings, DATABASE_URL=old)
        assert 503 == status
        assert "PostgreSQL 13.14 is too old: 15 or newer is needed; upgrade it" == checks["database"]

        status, checks = _readyz(settings, DATABASE_URL=latin)
        assert 503 == status
        assert "the database latin is encoded in LATIN1, UTF8 is needed" in checks["database"]

        status, checks = _readyz(settings, REDIS_URL=redis)
        assert 200 == status
        assert "Redis 6.2.14 is too old: 7.0 or newer is needed" in checks["redis"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url, port: url.replace(f":{_port(url)}/", f":{port}/"), ["see that it runs", "refused"]),
        (lambda url, _: url.replace(":password@", ":wrong@"), ["refuses the user or the password"]),
        (lambda url, _: url.replace("user:", "nobody:"), ["refuses the user or the password"]),
        (lambda url, _: url + "_missing", ["the database of DATABASE_URL does not exist", "CREATE DATABASE"]),
        (lambda url, _: url.replace(HOST, "no-such-host.invalid"), ["no-such-host.invalid", "has no address"]),
        (lambda url, _: f"{url}?sslmode=require", ["TLS", "sslmode"]),
        (lambda url, _: f"{url}?sslmode=maybe", ["sslmode"]),
        (lambda url, _: f"{url}?options=-c%20search_path%3Dteam_x", ["schema of search_path", "CREATE SCHEMA"]),
    ],
    ids=["down", "password", "role", "database", "host", "tls", "sslmode", "schema"],
)
def test_a_database_that_cannot_be_used_is_one_line(run, environ, free_port, change, words):
    url = change(environ["DATABASE_URL"], free_port())

    assert_refused(run("migrate", DATABASE_URL=url), "migrate", *words)
    assert_refused(run("check", DATABASE_URL=url), "check", *(words if "schema" not in words[0] else ["not migrated"]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DATABASE_URL": "postgresql://u:kittiwake@h/db?pool=5"}, ["DATABASE_URL is wrong", "'pool'"]),
        ({"DATABASE_URL": "postgresql://u:kittiwake%zz@h/db"}, ["DATABASE_URL is wrong", "%XX"]),
        ({"DATABASE_URL": "postgresql://u:kittiwake@h/db?options=-d5"}, ["DATABASE_URL is wrong", "options"]),
        ({"REDIS_URL": "redis://:kittiwake@h/0?pool=5"}, ["REDIS_URL is wrong", "'pool'"]),
        ({"REDIS_URL": "redis://:kittiwake/x@h/0"}, ["REDIS_URL is wrong", "expected redis://"]),
        ({"REDIS_URL": "rediss://:kittiwake@h/0?ssl_cert_reqs=maybe"}, ["REDIS_URL is wrong"]),
    ],
    ids=["parameter", "password", "options", "redis parameter", "redis password", "redis tls"],
)
def test_a_url_that_cannot_be_read_is_named_and_keeps_its_password(run, changes, words):
    done = run("check", **changes)

    assert 1 == done.returncode
    [first, second] = done.stderr.splitlines()
    assert "check: these settings must be corrected:" == first
    assert all(word in second for word in words), second
    assert "kittiwake" not in done.stderr


def test_a_read_only_server_is_named(run, postgres, environ):
    name = environ["DATABASE_URL"].rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    assert_refused(run("check"), "check", "read-only", "primary")
    assert "migrate: nothing to do" == run("migrate").stdout.strip()


def test_a_role_that_may_only_touch_rows_is_enough_once_the_schema_is_there(run, user_url):
    assert "migrate: nothing to do" == run("migrate", DATABASE_URL=user_url).stdout.strip()
    assert 0 == run("check", DATABASE_URL=user_url).returncode


@pytest.mark.parametrize(
    ("command", "revoked"), [("migrate", "schema_migrations"), ("check", "schema_migrations"), ("check", "jobs")]
)
def test_a_role_that_lacks_a_privilege_is_told_which(run, postgres, user_url, command, revoked):
    name = user_url.rpartition("/")[2]
    postgres.execute(f"REVOKE ALL ON {revoked} FROM clerk_of_{name}", name)

    assert_refused(run(command, DATABASE_URL=user_url), command, "lacks a privilege: grant it", f"table {revoked}")


@pytest.mark.parametrize(
    ("redis_url", "words"),
    [("redis://127.0.0.1:{port}/0", ["see that it runs"]), ("redis://nobody:wrong@127.0.0.1:{own}/0", ["password"])],
    ids=["down", "password"],
)
def test_a_redis_that_cannot_be_used_is_one_line(run, valkey, free_port, redis_url, words):
    done = run("check", REDIS_URL=redis_url.format(port=free_port(), own=valkey.port))

    assert_refused(done, "check", "Redis", *words)


@pytest.mark.parametrize("command", ["api", "worker", "check"])
def test_modules_with_job_types_that_are_not_there_are_named(run, command):
    done = run(command, ACTOR_MODULES="no_such_module")

    assert (1, True) == (done.returncode, "ACTOR_MODULES is wrong: there is no module 'no_such_module'" in done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_folder_for_metrics_that_cannot_be_made_is_named(run, tmp_path, command):
    (tmp_path / "file").touch()
    done = run(command, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "file" / "metrics"))

    assert (1, True) == (done.returncode, "PROMETHEUS_MULTIPROC_DIR cannot be used" in done.stderr)
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(service):
    with closing(socket.create_server((HOST, 0))) as other:
        worker = service.start_worker(WORKER_METRICS_PORT=str(other.getsockname()[1]))
        eventually(lambda: "correct METRICS_HOST or WORKER_METRICS_PORT" in service.log(worker), what="a line")

    assert "Traceback" not in service.log(worker)


def test_api_and_worker_say_what_they_wait_for_and_go_on_when_it_is_there(service, postgres, valkey):
    """As in Compose, where a server may come up later than they do."""
    with Proxy(postgres.port) as database, Proxy(valkey.port) as redis:
        for proxy, variable, server in ((database, "DATABASE_URL", postgres), (redis, "REDIS_URL", valkey)):
            proxy.refuse()
            service.environ[variable] = service.environ[variable].replace(f":{server.port}/", f":{proxy.port}/")
        waiting = [service._start(command, {}) for command in ("api", "worker")]
        for child in waiting:
            for what in ("PostgreSQL does not answer", "Redis does not answer"):
                eventually(lambda child=child, what=what: what in service.log(child), what=what)
            assert "waiting for it" in service.log(child)
            assert "Traceback" not in service.log(child)

        database.heal()
        redis.heal()

        eventually(lambda: service._ready(waiting[0]), what="a ready API")
        service.when(service.post("csv-generation", {"name": "Alice"}), "completed")
        service.stop()


def _with(settings, **changes):
    """Return the settings with some variables changed."""
    environ = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url, **changes}
    return Settings.from_env({"DATABASE_CONNECT_TIMEOUT_SECONDS": "2", **environ})


def _readyz(settings, **changes):
    answer = falcon.testing.TestClient(create_app(_with(settings, **changes))).simulate_get("/readyz")
    return answer.status_code, answer.json["checks"]


def _port(url):
    return url.rpartition(":")[2].partition("/")[0]
