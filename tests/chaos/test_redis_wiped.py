"""Fault 8: Redis loses everything it has, again and again, while jobs wait, run, fail and are dead."""


def test_nothing_is_lost_with_what_redis_held(stack, own_valkey):
    stack.start()
    with stack.no_process_ends(), own_valkey.client() as client:
        stack.submit_load(24)
        stack.strike()
        for _ in range(4):
            client.flushall()
            stack.submit_load(8)
        stack.settle()


def test_jobs_that_wait_in_a_redis_that_is_wiped_all_run(stack, own_valkey):
    stack.service.start_api()
    stack.submit_load(24)
    stack.strike()
    with own_valkey.client() as client:
        client.flushall()

    stack.service.start_worker()
