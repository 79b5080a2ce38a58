"""`job_dlq`, the Redis list of dead letters: a projection of the failed rows, for whoever watches Redis."""

from collections.abc import Iterator, Sequence
from uuid import UUID

import redis

from jobs_service.errors import BrokerUnavailable
from jobs_service.logs import get_logger

log = get_logger(__name__)

KEY = "job_dlq"

#: Redis lost its data if this key is gone.
EPOCH_KEY = "jobs:epoch"

#: How far back `push` looks for the id it is about to push, so that its cost does not grow with the list.
_LOOK_BACK = 1_000

_PUSH = """
if redis.call('LPOS', KEYS[1], ARGV[1], 'RANK', -1, 'MAXLEN', ARGV[2]) then return 0 end
return redis.call('RPUSH', KEYS[1], ARGV[1])"""


class DeadLetterList:
    """The list in Redis. What a failed `push` leaves out, `maintenance/dead_letters.py` mends."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._push = client.register_script(_PUSH)

    def push(self, job_id: UUID) -> None:
        """Append an id that is not there yet. A silent Redis is only logged: the rows are the truth."""
        try:
            self._push(keys=[KEY], args=[str(job_id), _LOOK_BACK])
        except redis.RedisError as error:
            log.warning("Dead letter not listed in Redis yet", job_id=str(job_id), error=str(error))

    def remove(self, job_id: UUID) -> None:
        """Take an id off the list. A silent Redis is only logged, as above."""
        try:
            self.client.lrem(KEY, 0, str(job_id))
        except redis.RedisError as error:
            log.warning("Dead letter still listed in Redis", job_id=str(job_id), error=str(error))

    def length(self) -> int:
        """Return the number of ids; -1 if what lies there is no list. Raises `BrokerUnavailable`."""
        try:
            return int(self.client.llen(KEY))
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                return -1
            raise BrokerUnavailable(str(error)) from error
        except redis.RedisError as error:
            raise BrokerUnavailable(str(error)) from error

    def ids(self) -> list[str]:
        """Return what is on the list; nothing if it is no list. Raises `BrokerUnavailable`."""
        return [listed for page in self.pages(10_000) for listed in page]

    def pages(self, size: int) -> Iterator[list[str]]:
        """Yield what is on the list, so many at a time. Otherwise like `ids`."""
        for start in range(0, self.length(), size):
            try:
                # The stubs do not know that nothing is decoded here.
                listed: Sequence[bytes] = self.client.lrange(KEY, start, start + size - 1)  # type: ignore[assignment]
            except redis.RedisError as error:
                raise BrokerUnavailable(str(error)) from error
            yield [item.decode(errors="replace") for item in listed]

    def replacing(self, job_ids: Sequence[UUID], size: int) -> Iterator[None]:
        """Put exactly these ids on the list, so many at a step; whoever reads it sees the old one until the last step.

        Raises `BrokerUnavailable`.
        """
        new = f"{KEY}:new"
        try:
            self.client.delete(new, *([] if job_ids else [KEY]))
            for start in range(0, len(job_ids), size):
                self.client.rpush(new, *map(str, job_ids[start : start + size]))
                yield
            if job_ids:
                self.client.rename(new, KEY)
        except redis.RedisError as error:
            raise BrokerUnavailable(str(error)) from error

    def has_epoch(self) -> bool:
        """Tell whether Redis still holds what was put there. Raises `BrokerUnavailable`."""
        try:
            return bool(self.client.exists(EPOCH_KEY))
        except redis.RedisError as error:
            raise BrokerUnavailable(str(error)) from error

    def set_epoch(self, epoch: str) -> None:
        """Raises `BrokerUnavailable`."""
        try:
            self.client.set(EPOCH_KEY, epoch)
        except redis.RedisError as error:
            raise BrokerUnavailable(str(error)) from error
