"""Detects other installations and other programs that use this installation's key names in Redis.

Each installation has one maintenance leader at a time, by a lease in its PostgreSQL. So two leaders that keep counting
under the same names in Redis belong to two installations, even if their databases look the same: usually one is a copy
of the other. An id stored in PostgreSQL would be copied too, and the id of the server changes with a failover.
"""

from collections.abc import Iterable
from typing import Any

import redis

from jobs_service.broker.keys import Keys
from jobs_service.broker.redis import unavailable

#: How often another leader must be seen counting before it is reported. A former leader may count on briefly.
SEEN = 3

#: Looks after which a leader that no longer counts is forgotten.
FORGOTTEN_LOOKS = 12

#: Seconds for which a finding is kept, unless it is made again.
KEPT_SECONDS = 60

ADVICE = "give each installation a REDIS_PREFIX of its own"


class Neighbours:
    """A leader's record of other leaders under the same names. Not thread-safe."""

    def __init__(self, client: redis.Redis, keys: Keys, me: str) -> None:
        """`me` identifies this leader, and says where it runs."""
        self.client = client
        self.keys = keys
        self.me = me
        self._counts: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._idle: dict[str, int] = {}

    def begin(self) -> None:
        """Forget what was seen, because the previous leader may have counted until now."""
        self._counts, self._seen, self._idle = {}, {}, {}

    def look(self) -> list[str]:
        """Count, and return the other leaders that keep counting too. Raises `BrokerUnavailable`."""
        try:
            counts = self._count()
            for leader, count in counts.items():
                self._compare(leader, count)
            self._clear(counts)
            found = sorted(leader for leader, seen in self._seen.items() if seen >= SEEN)
            if found:
                self._say(found)
        except redis.RedisError as error:
            raise unavailable(error, self.keys.leaders) from error
        return found

    def _count(self) -> dict[str, int]:
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.hincrby(self.keys.leaders, self.me, 1)
            pipeline.hgetall(self.keys.leaders)
            _, counts = pipeline.execute()
        return {leader.decode(errors="replace"): int(count) for leader, count in counts.items()}

    def _compare(self, leader: str, count: int) -> None:
        if leader == self.me:
            return
        before, self._counts[leader] = self._counts.get(leader), count
        if before is None or before == count:
            self._idle[leader] = self._idle.get(leader, 0) + 1
        else:
            self._seen[leader], self._idle[leader] = self._seen.get(leader, 0) + 1, 0
        if self._idle[leader] > FORGOTTEN_LOOKS:
            self._seen.pop(leader, None)

    def _clear(self, counts: Iterable[str]) -> None:
        """Remove former leaders, so that the hash does not grow with each."""
        if gone := [leader for leader in counts if self._idle.get(leader, 0) > 10 * FORGOTTEN_LOOKS]:
            self.client.hdel(self.keys.leaders, *gone)
            for leader in gone:
                del self._counts[leader], self._idle[leader]

    def _say(self, found: list[str]) -> None:
        """Store the finding where the API and `check` read it. Both installations write the same text."""
        # With `get`, Redis refuses to overwrite another program's value of another type.
        self.client.set(self.keys.neighbours, " and ".join(sorted([self.me, *found])), ex=KEPT_SECONDS, get=True)


def conflicts(client: redis.Redis, keys: Keys, queues: Iterable[str], *, in_full: bool = True) -> list[str]:
    """Return a sentence for each conflict over the names, in one or two round trips. Raises `BrokerUnavailable`.

    Without `in_full`, the sentences do not name the installations that share the names.
    """
    types = keys.types(queues)
    try:
        with client.pipeline(transaction=False) as pipeline:
            for key in types:
                pipeline.type(key)
            found = {key: kind.decode() for key, kind in zip(types, pipeline.execute(), strict=True)}
        are_shared = found[keys.neighbours] == types[keys.neighbours]
        names: Any = client.get(keys.neighbours) if are_shared and in_full else None
    except redis.RedisError as error:
        raise unavailable(error, keys.epoch) from error
    sentences = [
        f"the key {key} holds a {kind} of another program: rename it, or set REDIS_PREFIX"
        for key, kind in found.items()
        if kind not in {types[key], "none"}
    ]
    if are_shared:
        who = f" ({names.decode(errors='replace')})" if names else ""
        sentences.append(f"two installations use the same key names in Redis{who}: {ADVICE}")
    return sentences
