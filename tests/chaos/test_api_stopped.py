"""A fault of our own: an API is told to stop while clients post; one is started on the same port."""

from concurrent.futures import ThreadPoolExecutor

from eventually import eventually


def test_every_201_before_the_end_is_kept(stack):
    stack.start()
    api = stack.service.children[0]

    with ThreadPoolExecutor(4) as clients:
        posts = [clients.submit(post_until_refused, stack) for _ in range(4)]
        eventually(lambda: len(stack.accepted) > 20, what="clients at work")
        stack.strike()
        assert api.stop(seconds=60) == 0
        for post in posts:
            post.result()
    stack.service.start_api()
    assert stack.submit()
    stack.settle()


def post_until_refused(stack):
    while stack.submit():
        pass
