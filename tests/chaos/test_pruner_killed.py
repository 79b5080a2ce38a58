"""A fault of our own: the leader is killed between a job's file and its row, which the pruner deletes in that order."""

from eventually import eventually


def test_a_row_whose_file_is_gone_is_pruned_by_the_next_leader(stack):
    stack.service.start_api()
    stack.service.start_worker(RETENTION_COMPLETED_SECONDS="0")
    job_id = stack.submit("csv-generation", {"name": "Alice", "score": 95})
    stack.settle()
    stack.service.children[-1].kill()
    stack.accepted.pop(job_id)
    # As old as the id of a job that was accepted long ago.
    stack.sql("UPDATE jobs SET id = '01800000-0000-7000-8000-000000000000' RETURNING 1")
    (stack.outputs / f"{job_id}.csv").rename(stack.outputs / "01800000-0000-7000-8000-000000000000.csv")

    stack.strike()
    orders = {"FAILPOINTS": "pruner.after_files=kill once", "PRUNE_INTERVAL_SECONDS": "0.1"}
    stack.service.start_worker(RETENTION_COMPLETED_SECONDS="1", **orders)

    eventually((stack.folder / "pruner.after_files").exists, what="a killed pruner")
    eventually(lambda: stack.sql("SELECT count(*) FROM jobs")[0][0] == 0, what="no row")
    assert not list(stack.outputs.glob("*.csv"))
