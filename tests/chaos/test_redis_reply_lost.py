"""Fault 3: Redis carries out a command, and its reply is lost: nobody knows, so the command is sent again."""

import pytest
from eventually import eventually


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(b"ZADD", id="rung"),
        pytest.param(b"BZMPOP", id="popped"),
        pytest.param(b"EVALSHA", id="listed as dead"),
        pytest.param(b"\r\nGET\r\n", id="looked after"),
        pytest.param(b"HINCRBY", id="counted among the leaders"),
    ],
)
def test_a_command_that_was_carried_out_in_silence_doubles_nothing(stack, redis_proxy, command):
    stack.start()
    with stack.no_process_ends():
        stack.strike()
        for lost in range(1, 4):
            redis_proxy.lose_reply(command)
            stack.submit_load(8)
            eventually(lambda lost=lost: redis_proxy.lost >= lost, what="a lost reply")
        stack.settle()

    assert {1} == set(stack.effects().values())


def test_connections_that_are_cut_again_and_again_double_nothing(stack, redis_proxy):
    stack.start()
    with stack.no_process_ends():
        stack.strike()
        for _ in range(10):
            stack.submit_load(4)
            redis_proxy.cut()
        stack.settle()

    assert {1} == set(stack.effects().values())
