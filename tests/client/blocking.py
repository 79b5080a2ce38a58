"""The asynchronous client behind the methods of the synchronous one, so that one test tries both."""

import asyncio
import inspect


class Blocking:
    """Runs what an asynchronous object is asked for in an event loop of its own."""

    def __init__(self, target, runner):
        self._target = target
        self._runner = runner

    def __getattr__(self, name):
        value = getattr(self._target, name)
        return (lambda *args, **named: self._settled(value(*args, **named))) if callable(value) else value

    def __iter__(self):
        return self._each(aiter(self._target))

    def __next__(self):
        try:
            return self._run(anext(self._target))
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self):
        self._run(self._target.__aenter__())
        return self

    def __exit__(self, *error):
        self._run(self._target.__aexit__(*error))

    def _settled(self, value):
        if inspect.isawaitable(value):
            value = self._run(value)
        is_more = hasattr(value, "__aiter__") or hasattr(value, "__aenter__")
        return Blocking(value, self._runner) if is_more else value

    def _each(self, source):
        while True:
            try:
                yield self._run(anext(source))
            except StopAsyncIteration:
                return

    def _run(self, awaitable):
        async def wait():
            return await awaitable

        return self._runner.run(wait())


def runner():
    """Return an event loop to be closed."""
    return asyncio.Runner()
