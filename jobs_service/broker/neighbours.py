"""Whether the names in Redis are this installation's alone: who else counts up there, and what else lies there.

Each installation has one leader of maintenance at a time, by the lease in its PostgreSQL. So two leaders that both go
on counting under the same names in Redis are two installations, however alike their databases are; usually one is a
copy of the other. An id kept in PostgreSQL would be copied with it, and the server's own changes in a failover.
"""

from collections.abc import Iterable
from typing import Any

import redis

from jobs_service.broker.keys import Keys
from jobs_service.broker.redis import unavailable

#: A leader that was seen counting so often beside another one is no former leader on its last legs.
SEEN = 3

#: Looks after which one that no longer counts is a neighbour no more.
FORGOTTEN_LOOKS = 12

#: Seconds for which what was found is said, unless it is found again.
KEPT_SECONDS = 60

ADVICE = "give each installation a REDIS_PREFIX of its own"


class Neighbours:
    """A leader's view of the other leaders under its names. Belongs to one thread."""

    def __init__(self, client: redis.Redis, keys: Keys, me: str) -> None:
        """`me` tells this leader from all others, and says where it is to be found."""
        self.client = client
        self.keys = keys
        self.me = me
        self._counts: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._idle: dict[str, int] = {}

    def begin(self) -> None:
        """Forget what was seen: whoever led before may have counted on until then."""
        self._counts, self._seen, self._idle = {}, {}, {}

    def look(self) -> list[str]:
        """Count up, and return the others that have counted on beside this one. Raises `BrokerUnavailable`."""
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
        """Take former leaders off, or the hash would grow with each."""
        if gone := [leader for leader in counts if self._idle.get(leader, 0) > 10 * FORGOTTEN_LOOKS]:
            self.client.hdel(self.keys.leaders, *gone)
            for leader in gone:
                del self._counts[leader], self._idle[leader]

    def _say(self, found: list[str]) -> None:
        """Leave it where the API and `check` read it. Both installations write the same."""
        # With `get`, Redis refuses to write over another program's value of another type.
        self.client.set(self.keys.neighbours, " and ".join(sorted([self.me, *found])), ex=KEPT_SECONDS, get=True)


def conflicts(client: redis.Redis, keys: Keys, queues: Iterable[str], *, in_full: bool = True) -> list[str]:
    """Return what is wrong with the names, a sentence each, in one or two round trips. Raises `BrokerUnavailable`.

    Not `in_full`, it does not say which installations share them.
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
        sentences.append(f"two installations use the same names in Redis{who}: {ADVICE}")
    return sentences
