"""Whether Redis still holds what this service put there: without the key `jobs:epoch`, it has lost its data."""

import redis

from jobs_service.broker.keys import Keys
from jobs_service.broker.redis import unavailable
from jobs_service.errors import NameTaken

#: The value says under which names the queues are. While it was the former, they were under `dramatiq:…`.
VALUE, FORMER_VALUE = b"2", b"1"


class Epoch:
    """The key in Redis. An eviction or a restart without a dump takes it away together with the messages."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.key = keys.epoch

    def is_set(self) -> bool:
        """Tell whether Redis holds the key, written under today's names. Raises `BrokerUnavailable`."""
        try:
            # Any other value is another program's: it stays, and lost messages are published again in their time.
            return self.client.get(self.key) not in (None, FORMER_VALUE)
        except redis.RedisError as error:
            if isinstance(refused := unavailable(error, self.key), NameTaken):
                return True
            raise refused from error

    def set(self) -> None:
        """Write the key. Raises `BrokerUnavailable`."""
        try:
            # With `get`, Redis refuses to write over another program's value of another type.
            self.client.set(self.key, VALUE, get=True)
        except redis.RedisError as error:
            raise unavailable(error, self.key) from error
