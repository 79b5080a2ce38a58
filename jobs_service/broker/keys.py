"""The names of the keys in Redis. Every key that this installation writes is named here, and starts with its prefix."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Keys:
    """The names under one prefix, which keeps installations on one Redis apart."""

    prefix: str = ""

    def queue(self, name: str) -> str:
        """Return a queue's common line, a sorted set. Not `dramatiq:…`, as any other Dramatiq application has it.

        What stands in braces decides about the slot in a Redis in cluster mode: all lines of a queue are in one.
        """
        return f"{self.prefix}jobs:queue:{{{name}}}"

    def line(self, queue: str, job_type: str) -> str:
        """Return the sorted set of the messages of a type in a queue."""
        return f"{self.queue(queue)}:{job_type}"

    def handed(self, queue: str, consumer: UUID) -> str:
        """Return the sorted set of what is handed to one consumer of a queue; it goes by itself."""
        return f"{self.queue(queue)}:handed:{consumer}"

    @property
    def dead_letters(self) -> str:
        """The list of dead letters."""
        return f"{self.prefix}job_dlq"

    @property
    def dead_letters_to_come(self) -> str:
        """The list that takes the place of the dead letters once it is whole.

        What stands in braces decides about the slot in a Redis in cluster mode: it is that of the list it replaces.
        """
        return f"{{{self.dead_letters}}}:new"

    @property
    def undecodable(self) -> str:
        """The list of what was found in a queue and is no message."""
        return f"{self.prefix}job_undecodable"

    @property
    def epoch(self) -> str:
        """The mark that is gone when Redis has lost its data."""
        return f"{self.prefix}jobs:epoch"

    @property
    def leaders(self) -> str:
        """The hash in which each leader of maintenance counts up: two that do are two installations."""
        return f"{self.prefix}jobs:leaders"

    @property
    def neighbours(self) -> str:
        """What was found of two installations under these names; it goes by itself."""
        return f"{self.prefix}jobs:neighbours"

    def types(self, queues: Iterable[str]) -> dict[str, str]:
        """Return the type of value that each key has, by Redis' word for it."""
        return {
            **{self.queue(queue): "zset" for queue in queues},
            self.dead_letters: "list",
            self.dead_letters_to_come: "list",
            self.undecodable: "list",
            self.epoch: "string",
            self.leaders: "hash",
            self.neighbours: "string",
        }
