"""Everything through PgBouncer in transaction mode: sessions are shared, and nothing may rest on one."""

import os
import signal

from eventually import eventually
from pgbouncer import PgBouncer, needs_pgbouncer

pytestmark = needs_pgbouncer


def leaders(stack):
    """Return the ids of the processes that lead, by the leases that hold."""
    return stack.sql(
        "SELECT token, pid FROM leases JOIN workers ON workers.id = holder WHERE expires_at > clock_timestamp()"
    )


def test_jobs_are_done_and_one_process_leads_through_a_pooler(stack, postgres, tmp_path):
    pooler = stack.servers.enter_context(PgBouncer(tmp_path / "pgbouncer", postgres))
    stack.service.environ["DATABASE_URL"] = stack.database_url.replace(f":{postgres.port}/", f":{pooler.port}/")
    worker = stack.start(workers=2)
    stack.submit_load(32)
    stack.settle()
    [(token, leader)] = eventually(lambda: leaders(stack), what="a leader")
    # Each process says it once, and each of its threads connects without asking.
    assert stack.service.log(worker).count("A pooler takes no options") <= 4
    go = tmp_path / "go"
    job_id = run_on(stack, leader, go)

    stack.strike()
    os.kill(leader, signal.SIGKILL)

    go.touch()
    stack.submit_load(16)
    stack.settle()
    assert stack.job(job_id)["worker_losses"] == 1
    [(successors_token, successor)] = eventually(lambda: leaders(stack), what="another leader")
    assert successor != leader
    assert successors_token > token
    led = "jobs_maintenance_leader"
    eventually(lambda: stack.service.metrics()[led] == 1, what="one leader among the metrics")


def run_on(stack, pid, go):
    """Have jobs begin, which wait for a file, until one runs in this process; return its id."""
    sql = "SELECT pid FROM jobs JOIN workers ON workers.id = worker_id WHERE jobs.id = %s AND status = 'processing'"

    def running():
        job_id = stack.submit("test-wait-for-file", {"started": str(go.with_suffix(".started")), "go": str(go)})
        [(found,)] = eventually(lambda: stack.sql(sql, (job_id,)), what="a running job")
        return job_id if found == pid else None

    return eventually(running, what="a job of the leader's")
