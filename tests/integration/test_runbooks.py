"""The commands of the runbooks are true: SQL and Redis commands run, routes and services exist, PromQL is read."""

import re
import shlex
import subprocess
from pathlib import Path

import psycopg2
import pytest
import redis
import yaml
from monitoring_tools import PROMTOOL, needs_promtool

ROOT = Path(__file__).parents[2]
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].keys()

#: The routes that a runbook may call, of the API and of the servers that watch it.
ROUTES = re.compile(
    r"http://localhost:(3000/(livez|readyz|jobs(/<job-id>(/retry|/cancel)?|/\{\}/retry|\?status=failed&limit=20)?"
    r"|dead-letters/(groups|redrives)|queues/default/(pause|resume))"
    r"|9090/api/v1/(alerts|rules)|9093/(api/v2/alerts|-/ready))"
)
#: The subcommands of docker compose that a runbook may use; those that remove data are not among them.
COMPOSE = {"ps", "logs", "up", "stop", "start", "restart", "kill", "top", "rm", "exec"}


def commands():
    """Return (where it stands, command) of every line of every shell block."""
    for path in RUNBOOKS:
        section = path.stem
        for found in re.finditer(r"^## ([^\n]+)$|^```bash\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
            section = found[1] or section
            for line in (found[2] or "").splitlines():
                yield pytest.param(line, id=f"{section}: {line[:70]}")


def matching(pattern):
    """Return the commands that contain a pattern, as its first group."""
    return [
        pytest.param(found[1], id=command.id)
        for command in commands()
        if (found := re.search(pattern, command.values[0]))
    ]


@pytest.mark.parametrize("sql", matching(r'psql -U user -d jobs_db (?:-At )?-c "([^"]*)"'))
def test_sql_runs_on_the_migrated_database(database_url, sql):
    # Nobody has process 0; and VACUUM runs in no transaction.
    statement = sql.replace("<pid>", "0").replace("<type>", "csv-generation")
    # Against the server's own sessions and those of other tests, it is only read.
    explain = "EXPLAIN " if "pg_terminate_backend" in sql else ""

    connection = psycopg2.connect(database_url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(explain + statement)
    finally:
        connection.close()


@pytest.mark.parametrize("command", matching(r"redis-cli ([A-Z][^|`]*)"))
def test_a_redis_command_is_known(redis_url, command):
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command(*shlex.split(command))
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize("command", [one for one in commands() if "curl" in one.values[0]])
def test_an_address_exists(command):
    assert ROUTES.search(command), command
    assert set(re.findall(r"http://localhost:\S+?(?=[\"\s]|$)", command)) == {ROUTES.search(command)[0]}


@pytest.mark.parametrize("command", matching(r"^(docker compose [^|]*)"))
def test_a_compose_command_is_about_services_that_exist(command):
    _, _, subcommand, *words = shlex.split(command)
    named = without_options(words)[: 1 if subcommand == "exec" else None]

    assert subcommand in COMPOSE
    assert set(named) <= SERVICES


def without_options(words):
    """Return the words that are neither options nor the values of options."""
    values = {"--since", "--scale", "--timeout", "--format", "-s", "-n"}
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in values
    ]


@needs_promtool
def test_every_query_is_read_by_prometheus(tmp_path):
    queries = [command.values[0] for command in matching(r"promtool query instant http://localhost:9090 '([^']*)'")]
    rules = [{"record": f"runbook:query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    assert queries
    subprocess.run([PROMTOOL, "check", "rules", tmp_path / "queries.yml"], check=True)
