"""A Dramatiq broker on Redis whose messages only announce jobs: the rows in PostgreSQL hold the state.

What differs from `dramatiq.brokers.redis`, and why (docs/decisions/0002):

- A message is a pure function of its job, and waits in a line, which is a sorted set. So publishing a job twice leaves
  one message.
- The score is the priority, then the job's `run_at` by PostgreSQL's clock: the most urgent message is popped first.
- In a queue each job type has a line of its own, so that messages behind a type at its limit are found without
  reading that type's messages (docs/decisions/0021). Messages of unknown types wait in the queue's common line.
- A consumer blocks in Redis until there is a message, instead of polling.
- Messages are not acknowledged: a popped message is gone, and the row ensures that the job runs. So there are no sets
  of unacknowledged ids, no heartbeats and no maintenance in Redis, and none of their failure modes.
- Delays are not kept in Redis: a delay is set as an option of the message, and `LifecycleSync` writes it to the row.
"""

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any, Protocol, cast
from uuid import UUID, uuid4
from weakref import WeakSet

import redis
from dramatiq.actor import Actor
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import DecodeError
from dramatiq.message import Message
from dramatiq.middleware import Middleware
from redis.backoff import NoBackoff
from redis.retry import Retry
from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.broker.keys import Keys
from jobs_service.broker.limits import Limits
from jobs_service.config import Settings
from jobs_service.errors import BrokerUnavailable, NameTaken
from jobs_service.failpoints import failpoint
from jobs_service.ids import milliseconds_of
from jobs_service.jobs.job_types import spelling

log = get_logger(module=__name__)

#: The number of undecodable messages that are kept for inspection.
UNDECODABLE_KEPT = 1_000

#: Set by `enqueue` when Retries asks for another attempt later; read by LifecycleSync.
RETRY_DELAY_OPTION = "retry_delay_ms"

#: Seconds that a consumer waits after a Redis error before it tries again.
RECONNECT_SECONDS = 0.5

#: Seconds after which a consumer of a process that stops is asked again. Dramatiq ends it after the running jobs.
DRAINING_SECONDS = 0.1

#: Larger than any Unix time in milliseconds. Ten times it is far below 2**53, so that scores are exact.
_PRIORITY_STEP = 10**13

#: Seconds after which what wakes a consumer expires, in case the consumer is gone.
WAKE_SECONDS = 30

# Pops the first messages of all lines in the order of their scores. ARGV: how many in total, then the most from each
# line.
_POP_FIRST = """
local popped, heads, rooms, left = {}, {}, {}, tonumber(ARGV[1])
for line = 1, #KEYS do
  rooms[line] = tonumber(ARGV[line + 1])
  heads[line] = redis.call('ZRANGE', KEYS[line], 0, 0, 'WITHSCORES')
end
while left > 0 do
  local first, others
  for line = 1, #KEYS do
    if rooms[line] > 0 and heads[line][1] then
      others = first
      if not first or tonumber(heads[line][2]) < tonumber(heads[first][2]) then first = line end
    end
  end
  if not first then break end
  local count = others and 1 or math.min(left, rooms[first])
  local found, members = redis.call('ZRANGE', KEYS[first], 0, count - 1, 'WITHSCORES'), {}
  for place = 1, #found, 2 do
    popped[#popped + 1] = {found[place], found[place + 1]}
    members[#members + 1] = found[place]
  end
  redis.call('ZREM', KEYS[first], unpack(members))
  if not others then break end
  rooms[first], left = rooms[first] - 1, left - 1
  heads[first] = redis.call('ZRANGE', KEYS[first], 0, 0, 'WITHSCORES')
end
return popped"""


class Claiming(Protocol):
    """Claims the jobs whose messages a consumer has popped."""

    def claim(self, messages: "Sequence[Popped]") -> "Sequence[Popped]":
        """Return the messages of the jobs that are to run here."""

    def release(self, messages: Iterable[MessageProxy]) -> None:
        """Give back the claims of messages that go back to Redis."""


class NoClaims:
    """Hands out every message. For programs that run no jobs."""

    def claim(self, messages: "Sequence[Popped]") -> "Sequence[Popped]":
        return messages

    def release(self, messages: Iterable[MessageProxy]) -> None: ...


class JobBroker(RedisBroker):
    """A Dramatiq broker on sorted sets, in each queue one for each job type. Thread-safe."""

    def __init__(self, *, client: redis.Redis, middleware: list[Middleware], window: int, keys: Keys) -> None:
        super().__init__(client=client, middleware=middleware)
        self.keys = keys
        #: Messages are sent while fewer than this number of equal or higher priority wait. The rest wait in PostgreSQL.
        self.window = window
        #: By the monotonic clock; None unless the process is stopping.
        self.draining_since: float | None = None
        #: How many jobs this process holds, and may hold.
        self.limits = Limits()
        #: A worker process sets its own before it consumes.
        self.claims: Claiming = NoClaims()
        self._spellings: dict[str, str] = {}
        self._consumers: WeakSet[QueueConsumer] = WeakSet()

    @classmethod
    def from_settings(cls, settings: Settings) -> "JobBroker":
        """Return a broker without middleware. It connects when it is first used."""
        keys = Keys(settings.redis_prefix)
        return cls(client=redis_client(settings), middleware=[], window=settings.queue_window, keys=keys)

    @property
    def draining(self) -> bool:
        """True when the process is stopping: consumers hand out no more messages."""
        return self.draining_since is not None

    @draining.setter
    def draining(self, draining: bool) -> None:
        self.draining_since = time.monotonic() if draining else None

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue, without Dramatiq's second queue for delayed messages."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def get_actor(self, actor_name: str) -> Actor[Any, Any]:
        """Return the actor of a job type in any of its spellings. Raises `ActorNotFound`."""
        return super().get_actor(
            actor_name if actor_name in self.actors else self._spellings.get(spelling(actor_name), "")
        )

    def declare_actor(self, actor: Actor[Any, Any]) -> None:
        super().declare_actor(actor)
        self.learn([actor.actor_name])

    def learn(self, job_types: Iterable[str]) -> None:
        """Give each of these job types a line of its own in every queue."""
        self._spellings |= {spelling(job_type): job_type for job_type in job_types}

    @property
    def job_types(self) -> list[str]:
        return list(self._spellings.values())

    def name_of(self, job_type: str) -> str | None:
        """Return the name of a type, given in any of its spellings, or None if this process does not know it."""
        return self._spellings.get(spelling(job_type))

    def knows(self, job_type: str) -> bool:
        return self.name_of(job_type) is not None

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Send a message now. With a delay (ms), send nothing, and set the delay as an option of the message.

        Raises `BrokerUnavailable`.
        """
        if delay is not None:
            message.options[RETRY_DELAY_OPTION] = delay
            return message
        self.emit_before("enqueue", message, delay)
        self.publish(message.queue_name, [(message, message.message_timestamp)])
        self.emit_after("enqueue", message, delay)
        return message

    def publish(self, queue_name: str, messages: Iterable[tuple[Message[Any], float]]) -> None:
        """Put messages on a queue, each with its job's `run_at` in Unix milliseconds.

        Messages already on the queue keep their places. Raises `BrokerUnavailable`.
        """
        lines: dict[str, dict[bytes, int]] = defaultdict(dict)
        for message, due_ms in messages:
            lines[self.line(queue_name, message.actor_name)][message.encode()] = score(message, due_ms)
        if not lines:
            return
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for line, scores in lines.items():
                    pipeline.zadd(line, scores, nx=True)
                pipeline.execute()
        except redis.RedisError as error:
            raise unavailable(error, self.key(queue_name)) from error

    def replace(
        self, queue_name: str, former: Iterable[Message[Any]], message: Message[Any], due_ms: float | None
    ) -> None:
        """Move a job's message to the place it has from now on, and remove its `former` messages.

        Without `due_ms` the job is not due, and has no message. Raises `BrokerUnavailable`.
        """
        line = self.line(queue_name, message.actor_name)
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                pipeline.zrem(line, message.encode(), *(each.encode() for each in former))
                if due_ms is not None:
                    pipeline.zadd(line, {message.encode(): score(message, due_ms)})
                pipeline.execute()
        except redis.RedisError as error:
            raise unavailable(error, self.key(queue_name)) from error

    def waiting(self, queue_name: str) -> int:
        """Return the number of messages on a queue. Raises `BrokerUnavailable`."""
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for line in self.lines(queue_name):
                    pipeline.zcard(line)
                return sum(int(count) for count in pipeline.execute())
        except redis.RedisError as error:
            raise unavailable(error, self.key(queue_name)) from error

    def waiting_from(self, queue_name: str, job_type: str) -> list[int]:
        """Return for each priority, 0 to 9, the number of messages in a type's line with that or a higher priority.

        Raises `BrokerUnavailable`.
        """
        line = self.line(queue_name, job_type)
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for priority in range(10):
                    pipeline.zcount(line, "-inf", f"({(10 - priority) * _PRIORITY_STEP}")
                return [int(count) for count in pipeline.execute()]
        except redis.RedisError as error:
            raise unavailable(error, self.key(queue_name)) from error

    def newest(self, queue_name: str, job_type: str) -> list[float | None]:
        """Return for each priority, 0 to 9, the time (ms) of the last message in a type's line, or None if it has none.

        Raises `BrokerUnavailable`.
        """
        line = self.line(queue_name, job_type)
        bounds = [((9 - priority) * _PRIORITY_STEP, (10 - priority) * _PRIORITY_STEP) for priority in range(10)]
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for low, high in bounds:
                    pipeline.zrange(line, f"({high}", low, desc=True, withscores=True, byscore=True, offset=0, num=1)
                lasts = pipeline.execute()
        except redis.RedisError as error:
            raise unavailable(error, self.key(queue_name)) from error
        return [last[0][1] - low if last else None for last, (low, _) in zip(lasts, bounds, strict=True)]

    def key(self, queue_name: str) -> str:
        """Return the key of the queue's common line."""
        return self.keys.queue(queue_name)

    def line(self, queue_name: str, job_type: str) -> str:
        """Return the key of a type's own line in a queue, or of the common line if the type is unknown here."""
        name = self.name_of(job_type)
        return self.key(queue_name) if name is None else self.keys.line(queue_name, name)

    def lines(self, queue_name: str) -> list[str]:
        return [self.key(queue_name), *(self.line(queue_name, job_type) for job_type in self.job_types)]

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> "QueueConsumer":
        """Return a consumer. The consumers of all queues together hold at most `prefetch` messages."""
        self.limits.total = prefetch
        consumer = QueueConsumer(self, queue_name, timeout)
        self._consumers.add(consumer)
        return consumer

    def done(self, job_types: Sequence[str | None]) -> None:
        """Make room for as many messages of these types, in all queues: a type's jobs may be in several."""
        self.limits.give_back(job_types)
        for consumer in list(self._consumers):
            consumer.room_was_made(job_types)

    def flush(self, queue_name: str) -> None:
        self.client.delete(*self.lines(queue_name))

    def do_qsize(self, queue_name: str) -> int:
        """Return the number of messages. `RedisBroker.join` calls this name."""
        return self.waiting(queue_name)

    def close(self) -> None:
        self.client.close()


class QueueConsumer(Consumer):
    """Hands out the messages of one queue whose jobs are claimed, and blocks in Redis while there are none.

    It pops as many messages as the limits of the broker leave room for, and claims their jobs together. Popped messages
    are lost with the process. Their rows are still pending, so the relay publishes the jobs again.
    """

    def __init__(self, broker: JobBroker, queue_name: str, timeout: int) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self.timeout_seconds = timeout / 1000
        self.client = blocking_client(broker.client, self.timeout_seconds)
        self._pop_first = self.client.register_script(_POP_FIRST)
        #: The lines of the job types, and a key through which another thread ends this consumer's wait in Redis.
        self._lines = {job_type: broker.line(queue_name, job_type) for job_type in broker.job_types}
        self._wake_key = broker.keys.wake(queue_name, uuid4())
        #: The types that the present wait in Redis does not include, because they are at their limits.
        self._left_out: frozenset[str] = frozenset()
        #: While there was no room, messages may have arrived in several lines.
        self._was_full = True
        self._lock = Lock()
        #: Messages whose jobs are claimed, to be handed out.
        self._claimed: deque[Popped] = deque()
        self.redis_failed = False

    def __next__(self) -> MessageProxy | None:
        if not self._claimed:
            self._claim(self._pop())
        if self.broker.draining:
            self._return_claimed()
        return self._claimed.popleft() if self._claimed else None

    def ack(self, message: MessageProxy) -> None:
        """Make room for another message. The verdict on this one may not be written yet."""
        if isinstance(message, Popped):
            self.done([message])

    nack = ack

    def done(self, messages: Sequence["Popped"]) -> None:
        """Make room for as many messages."""
        self.broker.done([message.counted_type for message in messages])

    def room_was_made(self, job_types: Sequence[str | None]) -> None:
        """Have the next wait include these types. Redis is only called if the present one leaves out one of them."""
        with self._lock:
            was_left_out = not self._left_out.isdisjoint(job_types)
            self._was_full |= was_left_out
            if was_left_out:
                # One call ends the wait: those who come before it has ended need not make another.
                self._left_out = frozenset()
        if was_left_out and not self.broker.draining:
            self.wake()

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Give back the claims on jobs that have not begun, and publish them, so that another process can take them.

        They get back the places that they had.
        """
        returned = list(messages)
        self.broker.claims.release(returned)
        try:
            self.broker.publish(self.queue_name, [(message_of(proxy), due_ms_of(proxy)) for proxy in returned])
        except BrokerUnavailable as error:
            log.warning("Messages not returned to Redis; the relay will publish them again", error=str(error))

    def close(self) -> None:
        if self.client.connection:
            self.client.connection.disconnect()
        self.client.close()

    def _return_claimed(self) -> None:
        if self._claimed:
            messages = list(self._claimed)
            self._claimed.clear()
            self.requeue(messages)
            self.done(messages)

    def _pop(self) -> "list[Popped]":
        """Wait until there is room and a message. Return what was popped, [] after a time without any."""
        room = self._wait_for_room()
        if self.broker.draining:
            time.sleep(DRAINING_SECONDS)
            return []
        if not room:
            return []
        try:
            # A blocking wait pops from whichever line has a message. After a time without room several lines may have
            # some, and the most urgent of all must come first.
            popped = (self._was_full and self._take_first(room)) or self._wait_for_messages(room)
        except redis.RedisError as error:
            self._redis_failed(error)
            return []
        self.redis_failed = False
        return [message for data, place in popped if (message := self._decode(data, place))]

    def _wait_for_room(self) -> int:
        room = self.broker.limits.wait_for_room(0)
        if not room:
            self._was_full = True
            room = self.broker.limits.wait_for_room(self.timeout_seconds)
        return room

    def _take_first(self, room: int) -> list[tuple[bytes, float]]:
        """Pop the most urgent messages of all lines, without waiting."""
        self._was_full = False
        rooms = {line: most for line, most in self._rooms(room).items() if most}
        return self._found(self._pop_first(keys=list(rooms), args=[room, *rooms.values()]))

    def _wait_for_messages(self, room: int) -> list[tuple[bytes, float]]:
        """Wait for messages in one of the lines whose types are below their limits, and pop them."""
        with self._lock:
            rooms = self._rooms(room)
            self._left_out = frozenset(job_type for job_type, line in self._lines.items() if not rooms[line])
        lines = [line for line, most in rooms.items() if most]
        count = min(most for most in rooms.values() if most)
        try:
            # The stubs only know the return type for a pipeline.
            reply: Any = self.client.bzmpop(self.timeout_seconds, len(lines), lines, min=True, count=count)
        finally:
            with self._lock:
                self._left_out = frozenset()
        popped = reply[1] if reply else []
        # A type with little room keeps the count small for all lines: the next pop takes as many as each has room for.
        self._was_full |= len(popped) == count < room
        return self._found(popped)

    def _rooms(self, room: int) -> dict[str, int]:
        """Return for each line how many of `room` messages may be taken from it."""
        rooms = {line: self.broker.limits.room(job_type, room) for job_type, line in self._lines.items()}
        return {self._wake_key: room, self.broker.key(self.queue_name): room, **rooms}

    def _found(self, popped: Iterable[tuple[bytes, float]]) -> list[tuple[bytes, float]]:
        found = [(member, float(place)) for member, place in popped if member != self._wake_key.encode()]
        if found:
            failpoint("worker.after_pop")
        return found

    def _claim(self, popped: "Iterable[Popped]") -> None:
        """Claim the jobs of those messages for which there is room. Return the other messages to Redis."""
        taken: list[Popped] = []
        surplus: list[Popped] = []
        for message in popped:
            has_room = not self.broker.draining and self.broker.limits.take(message.counted_type)
            (taken if has_room else surplus).append(message)
        self._was_full |= bool(surplus) or not self.broker.limits.wait_for_room(0)
        if surplus:
            self.requeue(surplus)
        if taken:
            self._claimed.extend(self._claims(taken))

    def _claims(self, taken: "list[Popped]") -> "list[Popped]":
        # A message of an unknown type has no job to claim here: Dramatiq refuses it.
        claimed = [message for message in taken if message.counted_type is None]
        claimed += self.broker.claims.claim([message for message in taken if message.counted_type is not None])
        if len(claimed) < len(taken):
            kept = {id(message) for message in claimed}
            self.done([message for message in taken if id(message) not in kept])
        return claimed

    def wake(self) -> None:
        """End this consumer's wait in Redis. If this fails, it ends by itself after its timeout."""
        try:
            with self.broker.client.pipeline(transaction=False) as pipeline:
                pipeline.zadd(self._wake_key, {self._wake_key: 0})
                pipeline.expire(self._wake_key, WAKE_SECONDS)
                pipeline.execute()
        except redis.RedisError as error:
            log.debug("Consumer not woken", queue=self.queue_name, error=str(error))

    def _redis_failed(self, error: redis.RedisError) -> None:
        if not self.redis_failed:
            reason = str(unavailable(error, self.broker.key(self.queue_name)))
            log.warning("Messages cannot be read from Redis; trying again", queue=self.queue_name, error=reason)
        self.redis_failed = True
        time.sleep(min(RECONNECT_SECONDS, self.timeout_seconds))

    def _decode(self, data: bytes, place: float) -> "Popped | None":
        """Return a new message with the job, type and priority of the one in Redis, and nothing else of it.

        Other options that Dramatiq would obey, such as an eta or a time limit, were not set by this service.
        """
        try:
            found = Message.decode(data)
            priority = min(max(int(found.options.get("priority", 5)), 0), 9)
            message = message_for(UUID(found.args[0]), found.actor_name + "", self.queue_name, priority)
            return Popped(message, place, self.broker.name_of(message.actor_name), self)
        except (DecodeError, TypeError, ValueError, LookupError, AttributeError, OverflowError):
            self._quarantine(data)
            return None

    def _quarantine(self, data: bytes) -> None:
        key = self.broker.keys.undecodable
        events.emit(events.MessageQuarantined(queue=self.queue_name, key=key, bytes=len(data)))
        try:
            self.client.lpush(key, data[:65_536])
            self.client.ltrim(key, 0, UNDECODABLE_KEPT - 1)
        except redis.RedisError as error:
            log.warning("Undecodable message dropped", error=str(unavailable(error, key)))


class Popped(MessageProxy):
    """A message that was popped from its queue, with the `run_at` in its score."""

    def __init__(self, message: Message[Any], place: float, counted_type: str | None, consumer: QueueConsumer) -> None:
        super().__init__(message)
        self.consumer = consumer
        #: The type whose limit it counts towards; None if this process does not know the type.
        self.counted_type = counted_type
        # A message added by hand may have an infinite score, which has no remainder.
        self.due_ms = place % _PRIORITY_STEP if math.isfinite(place) else 0.0


def message_for(job_id: UUID, job_type: str, queue_name: str, priority: int) -> Message[Any]:
    """Return the message of a job: always the same, so that a queue holds it once."""
    return Message(
        queue_name=queue_name,
        actor_name=job_type,
        args=(str(job_id),),
        kwargs={},
        options={"priority": priority},
        message_id=str(job_id),
        message_timestamp=milliseconds_of(job_id),
    )


def message_of(proxy: MessageProxy) -> Message[Any]:
    """Return the message in a proxy, because only a message can be encoded."""
    return proxy._message  # noqa: SLF001 - dramatiq has no public access to it


def due_ms_of(proxy: MessageProxy) -> float:
    """Return the `run_at` of a message's job, in Unix milliseconds. If it was not popped, the time in its id."""
    return proxy.due_ms if isinstance(proxy, Popped) else proxy.message_timestamp


def score(message: Message[Any], due_ms: float) -> int:
    """Return the score of a message: higher priorities first, then earlier due times."""
    # A row written by hand may have any due time, but that must not change its priority.
    due = int(min(max(due_ms, 0), _PRIORITY_STEP - 1))
    return (9 - int(message.options.get("priority", 5))) * _PRIORITY_STEP + due


def unavailable(error: redis.RedisError, key: str) -> BrokerUnavailable:
    """Return the error for a failed Redis command, with advice where an operator can fix the cause."""
    if "WRONGTYPE" in str(error):
        return NameTaken(
            f"the key {key} holds a value of another program, of another type. It was not changed:"
            " rename it, or set REDIS_PREFIX"
        )
    if isinstance(error, redis.exceptions.MovedError | redis.exceptions.ClusterDownError):
        return BrokerUnavailable(
            f"REDIS_URL is one node of a cluster of several nodes, and does not serve the key {key}:"
            " use a standalone Redis, or a cluster of one node"
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return BrokerUnavailable(f"{error}; docs/compatibility.md lists the permissions that the Redis user needs")
    return BrokerUnavailable(str(error))


def redis_client(settings: Settings) -> redis.Redis:
    """Return a client that gives up quickly.

    It retries once, and only after a connection error: a pooled connection dies when the server restarts, and every
    command of this service may safely run twice. redis-py's default is ten retries.
    """
    return redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        health_check_interval=0,
    )


def blocking_client(client: redis.Redis, block_seconds: float) -> redis.Redis:
    """Return a client for one thread with the same settings, whose replies may take `block_seconds` longer."""
    options = dict(client.connection_pool.connection_kwargs)
    options["socket_timeout"] = (options.get("socket_timeout") or 1) + block_seconds
    pool = redis.ConnectionPool(connection_class=client.connection_pool.connection_class, **options)
    blocking = redis.Redis(connection_pool=pool)
    # Kept between commands: a pool would look, with four system calls, whether it is still good. It connects when used.
    blocking.connection = cast(redis.Connection, pool.make_connection())
    return blocking
