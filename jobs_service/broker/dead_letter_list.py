"""`job_dlq`, the Redis list of dead letters: the ids of the failed rows, for tools that read Redis."""

from collections.abc import Iterator, Sequence
from uuid import UUID

import redis
from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.broker.keys import Keys
from jobs_service.broker.redis import unavailable
from jobs_service.errors import NameTaken
from jobs_service.failpoints import failpoint

log = get_logger(module=__name__)

#: How many entries `push` searches for the id it is about to append, so that its cost does not grow with the list.
_LOOK_BACK = 1_000

# If the last entry does not have the length of an id, another program wrote the list.
_PUSH = """
local last = redis.call('LINDEX', KEYS[1], -1)
if last and #last ~= #ARGV[1] then return -1 end
if redis.call('LPOS', KEYS[1], ARGV[1], 'RANK', -1, 'MAXLEN', ARGV[2]) then return 0 end
return redis.call('RPUSH', KEYS[1], ARGV[1])"""


class DeadLetterList:
    """The list in Redis. If `push` fails, `maintenance/dead_letters.py` corrects the list later."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self.key = keys.dead_letters
        self._push = client.register_script(_PUSH)

    def add(self, failed: events.JobFailed) -> None:
        """List a job that has just become a dead letter, then announce that. Its row is committed."""
        failpoint("fail.before_push")
        self.push(UUID(failed.job_id))
        events.emit(failed)

    def push(self, job_id: UUID) -> None:
        """Append an id that is not on the list yet. Redis errors are only logged: the rows are authoritative."""
        try:
            if self._push(keys=[self.key], args=[str(job_id), _LOOK_BACK]) == -1:
                log.warning("Dead letter not listed in Redis", job_id=str(job_id), error=self._foreign())
        except redis.RedisError as error:
            reason = str(unavailable(error, self.key))
            log.warning("Dead letter not listed in Redis yet", job_id=str(job_id), error=reason)

    def remove(self, job_id: UUID) -> None:
        """Remove an id from the list. Redis errors are only logged, as above."""
        try:
            self.client.lrem(self.key, 0, str(job_id))
        except redis.RedisError as error:
            reason = str(unavailable(error, self.key))
            log.warning("Dead letter still listed in Redis", job_id=str(job_id), error=reason)

    def remove_oldest(self, job_ids: Sequence[UUID]) -> None:
        """Remove ids that are near the beginning of the list. Redis errors are only logged, as above."""
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for job_id in job_ids:
                    pipeline.lrem(self.key, 1, str(job_id))
                pipeline.execute()
        except redis.RedisError as error:
            reason = str(unavailable(error, self.key))
            log.warning("Dead letters still listed in Redis", jobs=len(job_ids), error=reason)

    def length(self) -> int:
        """Return the number of ids. Raises `NameTaken` if the key holds no list, or `BrokerUnavailable`."""
        try:
            return int(self.client.llen(self.key))
        except redis.RedisError as error:
            raise unavailable(error, self.key) from error

    def ids(self) -> list[str]:
        """Return all ids on the list. Raises `NameTaken` or `BrokerUnavailable`."""
        return [listed for page in self.pages(10_000) for listed in page]

    def pages(self, size: int) -> Iterator[list[str]]:
        """Yield the ids on the list, `size` at a time.

        Raises `NameTaken` if an entry is not a job id, so another program wrote it, or `BrokerUnavailable`.
        """
        for start in range(0, self.length(), size):
            try:
                # The stubs do not know that this client returns bytes.
                found: Sequence[bytes] = self.client.lrange(self.key, start, start + size - 1)  # type: ignore[assignment]
            except redis.RedisError as error:
                raise unavailable(error, self.key) from error
            listed = [item.decode(errors="replace") for item in found]
            if not all(map(_is_id, listed)):
                raise NameTaken(self._foreign())
            yield listed

    def replacing(self, job_ids: Sequence[UUID], size: int) -> Iterator[None]:
        """Replace the list by exactly these ids, `size` per step. Readers see the old list until the last step.

        Raises `BrokerUnavailable`.
        """
        new = self.keys.dead_letters_to_come
        try:
            self.client.delete(new)
            for start in range(0, len(job_ids), size):
                self.client.rpush(new, *map(str, job_ids[start : start + size]))
                yield
            if job_ids:
                self.client.rename(new, self.key)
            else:
                self.client.delete(self.key)
        except redis.RedisError as error:
            raise unavailable(error, self.key) from error

    def _foreign(self) -> str:
        return (
            f"the list {self.key} has entries of another program, which are not job ids. It was not changed:"
            " rename it, or set REDIS_PREFIX"
        )


def _is_id(listed: str) -> bool:
    try:
        return str(UUID(listed)) == listed
    except ValueError:
        return False
