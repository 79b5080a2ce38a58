"""PgBouncer in transaction mode, between the service and PostgreSQL; named by TEST_PGBOUNCER, or on PATH."""

import os
import shutil
from contextlib import suppress

import psycopg2
import pytest

from devstack.servers import HOST, Postgres, Server

PGBOUNCER = os.environ.get("TEST_PGBOUNCER") or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
#: Where it finds libraries that the machine does not have.
LIBRARIES = os.environ.get("TEST_PGBOUNCER_LIBRARIES", "")

needs_pgbouncer = pytest.mark.skipif(
    PGBOUNCER is None, reason="pgbouncer is neither on PATH nor named by TEST_PGBOUNCER"
)

#: The server's connections are fewer than the service's threads: a session's state would end up with others.
CONFIG = """
[databases]
* = host={host} port={server_port} user={user} password={password}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
; or the same session would nearly always come back
server_round_robin = 1
{further}
"""


class PgBouncer(Server):
    name = "pgbouncer"

    def __init__(self, folder, postgres, further=""):
        """`further` are lines of its configuration."""
        super().__init__(folder)
        self.postgres = postgres
        self.further = further

    @property
    def _config(self):
        return self.folder / "pgbouncer.ini"

    def prepare(self):
        names = {"host": HOST, "port": self.port, "server_port": self.postgres.port}
        names |= {"user": Postgres.USER, "password": Postgres.PASSWORD, "further": self.further}
        self._config.write_text(CONFIG.format(**names))

    def before(self, url):
        """Return a URL of its PostgreSQL's that leads through it."""
        return url.replace(f":{self.postgres.port}/", f":{self.port}/")

    def command(self):
        return ["env", f"LD_LIBRARY_PATH={LIBRARIES}", PGBOUNCER, str(self._config)]

    def privileges(self):
        return self.postgres.privileges()

    def answers(self):
        with suppress(psycopg2.OperationalError):
            psycopg2.connect(host=HOST, port=self.port, dbname="postgres", user="user", connect_timeout=2).close()
            return True
        return False
