"""A job ends the process that others share: they did nothing wrong, and use no attempt."""

import pytest
from eventually import eventually


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_the_neighbours_of_a_job_that_ends_their_process_use_no_attempt(stack, tmp_path, how):
    stack.start()
    started, go = tmp_path / "started", tmp_path / "go"
    waiting = {"started": str(started), "go": str(go)}
    neighbours = [stack.submit("test-wait-for-file", waiting, max_attempts=1) for _ in range(3)]
    eventually(lambda: started.exists() and len(started.read_text().splitlines()) == 3, what="running neighbours")

    stack.strike()
    stack.submit("test-die", {"how": how}, max_attempts=1)
    # Each begins again, in a process of its own.
    eventually(lambda: len(started.read_text().splitlines()) == 6, what="neighbours that run again")
    go.touch()
    stack.settle()

    assert stack.values(neighbours, "status", "attempts", "worker_losses") == {("completed", 1, 1)}
