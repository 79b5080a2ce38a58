"""The names of all keys that this service writes in Redis. Each begins with REDIS_PREFIX."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of the keys under one prefix, which separates installations that share a Redis."""

    prefix: str = ""

    def queue(self, name: str) -> str:
        """Return the key of a queue's common line, a sorted set. Not `dramatiq:…`, which other applications may use.

        The part in braces determines the slot in a Redis cluster, so all lines of a queue are in the same slot.
        """
        return f"{self.prefix}jobs:queue:{{{name}}}"

    def line(self, queue: str, job_type: str) -> str:
        """Return the key of a job type's line in a queue, a sorted set of messages."""
        return f"{self.queue(queue)}:{job_type}"

    def wake(self, queue: str, consumer: UUID) -> str:
        """Return the key that ends one consumer's wait for messages, a sorted set that expires."""
        return f"{self.queue(queue)}:wake:{consumer}"

    @property
    def dead_letters(self) -> str:
        """The list of dead letters."""
        return f"{self.prefix}job_dlq"

    @property
    def dead_letters_to_come(self) -> str:
        """The list that replaces the dead letters once it is complete.

        The part in braces determines the slot in a Redis cluster: it is that of the list to be replaced.
        """
        return f"{{{self.dead_letters}}}:new"

    @property
    def undecodable(self) -> str:
        """The list of queue entries that could not be decoded as messages."""
        return f"{self.prefix}job_undecodable"

    @property
    def epoch(self) -> str:
        """The key whose absence shows that Redis has lost its data."""
        return f"{self.prefix}jobs:epoch"

    @property
    def leaders(self) -> str:
        """The hash in which each maintenance leader increments a counter. Two that count are two installations."""
        return f"{self.prefix}jobs:leaders"

    @property
    def neighbours(self) -> str:
        """The names of two installations found using the same keys. It expires."""
        return f"{self.prefix}jobs:neighbours"

    def types(self, queues: Iterable[str]) -> dict[str, str]:
        """Return the Redis type of each key's value."""
        return {
            **{self.queue(queue): "zset" for queue in queues},
            self.dead_letters: "list",
            self.dead_letters_to_come: "list",
            self.undecodable: "list",
            self.epoch: "string",
            self.leaders: "hash",
            self.neighbours: "string",
        }
