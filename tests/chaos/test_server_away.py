"""Whatever a job needs may be away, not only the mail server: a job's code says so, and its jobs wait."""

from eventually import eventually

STORE, OTHER = "https://store.example", "https://other.example"


def test_jobs_of_any_code_wait_for_the_server_that_it_names_and_others_go_on(stack, tmp_path):
    away, asked = tmp_path / "away", tmp_path / "asked"
    away.touch()
    stack.start(workers=2)
    stack.strike()

    def submit(server, file):
        payload = {"server": server, "away": str(file), "asked": str(asked)}
        return stack.submit("test-unavailable", payload, max_attempts=1)

    waiting = [submit(STORE, away) for _ in range(20)]
    eventually(lambda: all_wait(stack), what="jobs that all wait")
    others = [submit(OTHER, tmp_path / "nothing"), *stack.submit_load(8)]
    stack.until_ended(others)
    assert [(STORE,)] == stack.sql("SELECT name FROM servers")

    away.unlink()
    stack.settle()

    assert {"completed"} == stack.values(waiting, "status")
    # Each that asked in vain is in its job's history; the others did not ask.
    tried = sum(len(stack.job(job_id)["history"]) for job_id in waiting)
    assert tried + len(waiting) + 1 == len(asked.read_text().splitlines())


def all_wait(stack):
    return stack.sql("SELECT count(*) FROM jobs WHERE deferrals > 0") == [(20,)]
