"""A fault of our own: an API is told to stop while clients post; one is started on the same port."""

from concurrent.futures import ThreadPoolExecutor


def test_every_201_before_the_end_is_kept(stack):
    stack.start()
    api = stack.service.children[0]

    with ThreadPoolExecutor(4) as clients:
        posts = [clients.submit(stack.submit) for _ in range(200)]
        stack.strike()
        assert api.stop(seconds=20) == 0
        answers = [post.result() for post in posts]
    stack.service.start_api()
    assert stack.submit()
    stack.settle()

    assert stack.accepted
    assert None in answers
