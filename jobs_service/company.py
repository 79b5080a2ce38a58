"""Who runs beside whom in a worker process: ordinary attempts together, a suspect alone."""

from threading import Condition, local


class _Thread(local):
    alone = False


class Company:
    """A lock that many share or one has alone. Whoever wants to be alone comes first, or it might wait for ever."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._present = 0
        self._wanting = 0
        self._taken = False
        self._thread = _Thread()

    def join(self) -> None:
        """Wait until nobody is alone or wants to be, then be one of many."""
        with self._changed:
            while self._taken or self._wanting:
                self._changed.wait()
            self._present += 1

    def is_alone_at_once(self) -> bool:
        """From being one of many, be alone if nobody else is there. False: nothing has changed."""
        with self._changed:
            if self._present > 1 or self._wanting:
                return False
            self._present -= 1
            self._taken = self._thread.alone = True
            return True

    def be_alone(self) -> None:
        """From being one of many, wait until the others have left."""
        with self._changed:
            self._present -= 1
            self._wanting += 1
            self._changed.notify_all()
            while self._taken or self._present:
                self._changed.wait()
            self._wanting -= 1
            self._taken = True
            self._thread.alone = True

    def leave(self) -> None:
        with self._changed:
            if self._thread.alone:
                self._thread.alone = self._taken = False
            else:
                self._present -= 1
            self._changed.notify_all()
