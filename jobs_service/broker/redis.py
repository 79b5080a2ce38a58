"""Dramatiq's Redis broker, made a doorbell: messages are popped, not acknowledged, and sent once however often.

What differs from `dramatiq.brokers.redis`, and why (docs/decisions/0002):

- A message is a pure function of its job, and it waits in a line, a sorted set: ringing twice leaves one message.
- The score is the priority, then the job's `run_at`, which is PostgreSQL's: the most urgent message is popped first.
- In a queue each type has a line of its own, so that what stands behind a type at its limit is found without a look at
  that type's messages (docs/decisions/0021). Messages of types that nobody here knows wait in the queue's common line.
- A consumer blocks in Redis until there is a message, instead of asking again and again.
- Nothing is acknowledged: a popped message is gone, and the row, not the message, carries the promise. So there are
  no sets of unacknowledged ids, no heartbeats and no maintenance in Redis, and none of their failure modes.
- A delay is never kept in Redis: it is noted on the message, and `LifecycleSync` writes it to the row.
"""

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from threading import Condition
from typing import Any
from uuid import UUID, uuid4

import redis
from dramatiq.actor import Actor
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import DecodeError
from dramatiq.message import Message
from dramatiq.middleware import Middleware
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs_service import events
from jobs_service.broker.keys import Keys
from jobs_service.broker.limits import Limits
from jobs_service.config import Settings
from jobs_service.errors import BrokerUnavailable, NameTaken
from jobs_service.events import MessageQuarantined
from jobs_service.failpoints import failpoint
from jobs_service.ids import milliseconds_of
from jobs_service.jobs.job_types import spelling
from jobs_service.observability.logs import get_logger

log = get_logger(__name__)

#: Messages that cannot be decoded are kept for a look, so many of them.
UNDECODABLE_KEPT = 1_000

#: Set by `enqueue` when Retries asks for another attempt later; read by LifecycleSync.
RETRY_DELAY_OPTION = "retry_delay_ms"

#: Seconds a consumer waits after Redis failed before it asks again.
RECONNECT_SECONDS = 0.5

#: Above every Unix time in milliseconds, and ten of it are far below 2**53: scores stay exact.
_PRIORITY_STEP = 10**13

#: Seconds for which what is handed to a consumer lies in Redis, if that consumer is gone.
HANDED_SECONDS = 30

# Pops the messages that come first in all lines together. ARGV: how many in all, then how many of each line at most.
_POP_FIRST = """
local popped, heads, rooms = {}, {}, {}
for line = 1, #KEYS do
  rooms[line] = tonumber(ARGV[line + 1])
  heads[line] = redis.call('ZRANGE', KEYS[line], 0, 0, 'WITHSCORES')
end
for _ = 1, tonumber(ARGV[1]) do
  local first
  for line = 1, #KEYS do
    if rooms[line] > 0 and heads[line][1]
      and (not first or tonumber(heads[line][2]) < tonumber(heads[first][2])) then first = line end
  end
  if not first then break end
  popped[#popped + 1] = heads[first]
  redis.call('ZREM', KEYS[first], heads[first][1])
  rooms[first] = rooms[first] - 1
  heads[first] = redis.call('ZRANGE', KEYS[first], 0, 0, 'WITHSCORES')
end
return popped"""

# Hands the first message of a line (KEYS[1]) to one consumer (KEYS[2]); without one, the name of its key wakes it.
_HAND_OVER = """
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[1] then redis.call('ZREM', KEYS[1], first[1]) end
redis.call('ZADD', KEYS[2], first[2] or 0, first[1] or KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[1])"""


class JobBroker(RedisBroker):
    """A Dramatiq broker on sorted sets, in each queue one for each job type. Thread-safe."""

    def __init__(self, *, client: redis.Redis, middleware: list[Middleware], window: int, keys: Keys) -> None:
        super().__init__(client=client, middleware=middleware)
        self.keys = keys
        #: A message is sent while fewer than so many wait that are at least as urgent; the rest waits in PostgreSQL.
        self.window = window
        #: By the monotonic clock; None as long as the process is not to end.
        self.draining_since: float | None = None
        #: How many jobs of each type are in hand here, and may be.
        self.limits = Limits()
        self._spellings: dict[str, str] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> "JobBroker":
        """Return a broker without middleware. Connects to nothing before it is asked for something."""
        keys = Keys(settings.redis_prefix)
        return cls(client=redis_client(settings), middleware=[], window=settings.queue_window, keys=keys)

    @property
    def draining(self) -> bool:
        """Set when the process is to end: consumers hand out nothing more."""
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
        """Give these types lines of their own."""
        self._spellings |= {spelling(job_type): job_type for job_type in job_types}

    @property
    def job_types(self) -> list[str]:
        return list(self._spellings.values())

    def name_of(self, job_type: str) -> str | None:
        """Return the name of a type in any of its spellings; None if it is not known here."""
        return self._spellings.get(spelling(job_type))

    def knows(self, job_type: str) -> bool:
        return self.name_of(job_type) is not None

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Send a message now. With a delay (ms), send nothing: note the delay on the message.

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

        Those already there stay where they are. Raises `BrokerUnavailable`.
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
        """Return for each priority, 0 to 9, the number of messages in a type's line that are at least as urgent.

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
        """Return for each priority, 0 to 9, the time (ms) of the last message in a type's line, or None without any.

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
        """Return the queue's common line."""
        return self.keys.queue(queue_name)

    def line(self, queue_name: str, job_type: str) -> str:
        """Return the key of a type's own line in a queue, or the common one if the type is not known here."""
        name = self.name_of(job_type)
        return self.key(queue_name) if name is None else self.keys.line(queue_name, name)

    def lines(self, queue_name: str) -> list[str]:
        return [self.key(queue_name), *(self.line(queue_name, job_type) for job_type in self.job_types)]

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        return QueueConsumer(self, queue_name, prefetch, timeout)

    def flush(self, queue_name: str) -> None:
        self.client.delete(*self.lines(queue_name))

    def do_qsize(self, queue_name: str) -> int:
        """Name that `RedisBroker.join` calls."""
        return self.waiting(queue_name)

    def close(self) -> None:
        self.client.close()


class QueueConsumer(Consumer):
    """Hands out the messages of one queue; waits for them in Redis.

    Never more than `prefetch` at a time are popped and not yet done, of each type never more than its limit, and popped
    messages are lost with the process: their rows are still pending, so the relay publishes it again.
    """

    def __init__(self, broker: JobBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self.prefetch = prefetch
        self.timeout_seconds = timeout / 1000
        self.client = blocking_client(broker.client, self.timeout_seconds)
        self._pop_first = self.client.register_script(_POP_FIRST)
        self._hand_over = broker.client.register_script(_HAND_OVER)
        #: The lines of the types, and one for what is handed to this consumer alone.
        self._lines = {job_type: broker.line(queue_name, job_type) for job_type in broker.job_types}
        self._handed = broker.keys.handed(queue_name, uuid4())
        #: The types that the current wait in Redis leaves out, because they are at their limits.
        self._left_out: frozenset[str] = frozenset()
        #: While every thread was busy, messages may have come in several lines.
        self._was_busy = True
        #: Messages with their scores.
        self.popped: deque[tuple[bytes, float]] = deque()
        self.outstanding = 0
        self.done = Condition()
        self.redis_failed = False

    def __next__(self) -> MessageProxy | None:
        if not self.popped:
            self._pop()
        if self.broker.draining:
            self._return_popped()
        surplus: list[MessageProxy] = []
        try:
            return self._next_within_limits(surplus)
        finally:
            if surplus:
                self.requeue(surplus)

    def _next_within_limits(self, surplus: list[MessageProxy]) -> MessageProxy | None:
        """Return the next message whose type is not at its limit; put those before it, if any, into `surplus`."""
        while self.popped:
            if not (message := self._decode(*self.popped.popleft())):
                continue
            if message.takes_place_of and not self.broker.limits.take(message.takes_place_of):
                surplus.append(message)
                continue
            with self.done:
                self.outstanding += 1
                self._was_busy |= self.outstanding >= self.prefetch
            return message
        return None

    def ack(self, message: MessageProxy) -> None:
        """Count the message as done. There is nothing to tell Redis, unless a wait there left out the type."""
        job_type = message.takes_place_of if isinstance(message, Popped) else None
        with self.done:
            self.outstanding -= 1
            if job_type:
                self.broker.limits.give_back(job_type)
            is_left_out = job_type in self._left_out
            self.done.notify()
        if job_type and is_left_out and not self.broker.draining:
            self._hand_over_next(job_type)

    nack = ack

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Ring again for messages that were popped and not begun, so that another process need not wait.

        They go back to the places in line that they had.
        """
        try:
            self.broker.publish(self.queue_name, [(message_of(proxy), due_ms_of(proxy)) for proxy in messages])
        except BrokerUnavailable as error:
            log.warning("Messages not returned; the relay will publish them again", error=str(error))

    def close(self) -> None:
        self.client.close()

    def _return_popped(self) -> None:
        messages = [message for popped in self.popped if (message := self._decode(*popped))]
        self.popped.clear()
        if messages:
            self.requeue(messages)

    def _pop(self) -> None:
        free = self._wait_for_a_free_thread()
        if free <= 0 or self.broker.draining:
            return
        try:
            # To wait takes the first of any line; where no thread was free for it, the first of all lines is due.
            if not (self._was_busy and self._take_first(free)):
                self._wait_for_a_message(free)
            self._was_busy = False
        except redis.RedisError as error:
            self._redis_failed(error)
        else:
            self.redis_failed = False

    def _wait_for_a_free_thread(self) -> int:
        with self.done:
            if self.outstanding >= self.prefetch:
                self.done.wait(self.timeout_seconds)
            return self.prefetch - self.outstanding

    def _take_first(self, count: int) -> bool:
        """Pop what comes first in all lines together, without waiting. False: there is nothing."""
        rooms = {line: room for line, room in self._rooms(count).items() if room}
        popped: Any = self._pop_first(keys=list(rooms), args=[count, *rooms.values()])
        return self._take(popped)

    def _wait_for_a_message(self, count: int) -> None:
        """Wait until there is a message in one of the lines whose types are not at their limits, and pop it."""
        with self.done:
            rooms = self._rooms(count)
            self._left_out = frozenset(job_type for job_type, line in self._lines.items() if not rooms[line])
        lines = [line for line, room in rooms.items() if room]
        try:
            # The stubs know the reply of a pipeline only.
            reply: Any = self.client.bzmpop(
                self.timeout_seconds, len(lines), lines, min=True, count=min(room for room in rooms.values() if room)
            )
        finally:
            with self.done:
                self._left_out = frozenset()
        self._take(reply[1] if reply else [])

    def _rooms(self, count: int) -> dict[str, int]:
        """Return for each line how many of `count` messages may be taken from it."""
        rooms = {line: self.broker.limits.room(job_type, count) for job_type, line in self._lines.items()}
        return {self._handed: count, self.broker.key(self.queue_name): count, **rooms}

    def _take(self, popped: Iterable[tuple[bytes, float]]) -> bool:
        messages = [(member, float(place)) for member, place in popped if member != self._handed.encode()]
        self.popped.extend(messages)
        if messages:
            failpoint("worker.after_pop")
        return bool(messages)

    def _hand_over_next(self, job_type: str) -> None:
        """Hand the next message of a type that was at its limit to this consumer, or wake it: its wait leaves it out.

        Should that fail, the wait ends by itself.
        """
        try:
            self._hand_over(keys=[self._lines[job_type], self._handed], args=[HANDED_SECONDS])
        except redis.RedisError as error:
            log.debug("Consumer not woken", queue=self.queue_name, error=str(error))

    def _redis_failed(self, error: redis.RedisError) -> None:
        if not self.redis_failed:
            reason = str(unavailable(error, self.broker.key(self.queue_name)))
            log.warning("Redis gives no messages; asking until it does", queue=self.queue_name, error=reason)
        self.redis_failed = True
        time.sleep(min(RECONNECT_SECONDS, self.timeout_seconds))

    def _decode(self, data: bytes, place: float) -> "Popped | None":
        """Return the message made anew: only its job, type and priority are taken from what lies in Redis.

        Options that Dramatiq obeys (an eta, a time limit, …) are none of ours, whoever put them there.
        """
        try:
            found = Message.decode(data)
            priority = min(max(int(found.options.get("priority", 5)), 0), 9)
            message = message_for(UUID(found.args[0]), found.actor_name + "", self.queue_name, priority)
            return Popped(message, place, self.broker.name_of(message.actor_name))
        except (DecodeError, TypeError, ValueError, LookupError, AttributeError, OverflowError):
            self._quarantine(data)
            return None

    def _quarantine(self, data: bytes) -> None:
        key = self.broker.keys.undecodable
        events.emit(MessageQuarantined(queue=self.queue_name, key=key, bytes=len(data)))
        try:
            self.client.lpush(key, data[:65_536])
            self.client.ltrim(key, 0, UNDECODABLE_KEPT - 1)
        except redis.RedisError as error:
            log.warning("Undecodable message dropped", error=str(unavailable(error, key)))


class Popped(MessageProxy):
    """A message that was taken from its queue, with the `run_at` by which it stood in line there."""

    def __init__(self, message: Message[Any], place: float, takes_place_of: str | None) -> None:
        super().__init__(message)
        #: The type among whose jobs in hand it is counted; None if the type is not known here.
        self.takes_place_of = takes_place_of
        # Whoever put it there by hand may have put it at infinity, of which there is no remainder.
        self.due_ms = place % _PRIORITY_STEP if math.isfinite(place) else 0.0


def message_for(job_id: UUID, job_type: str, queue_name: str, priority: int) -> Message[Any]:
    """Return the message that rings for a job: always the same one, so that a queue holds it once."""
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
    """Return the message in a proxy: only a message can be encoded."""
    return proxy._message  # noqa: SLF001 - dramatiq offers no other way


def due_ms_of(proxy: MessageProxy) -> float:
    """Return the `run_at` of a message's job, in Unix milliseconds; of one that was not popped, what its id says."""
    return proxy.due_ms if isinstance(proxy, Popped) else proxy.message_timestamp


def score(message: Message[Any], due_ms: float) -> int:
    """Return the place in line: the higher priority first, then the one that was due first."""
    # A row written by hand may be due at any time, but must not get another priority by that.
    due = int(min(max(due_ms, 0), _PRIORITY_STEP - 1))
    return (9 - int(message.options.get("priority", 5))) * _PRIORITY_STEP + due


def unavailable(error: redis.RedisError, key: str) -> BrokerUnavailable:
    """Say what Redis refused, with what to do about it where an operator can mend it."""
    if "WRONGTYPE" in str(error):
        return NameTaken(
            f"the key {key} holds another type of value than ours, which another program wrote;"
            " it is left as it is: rename it, or set REDIS_PREFIX"
        )
    if isinstance(error, redis.exceptions.MovedError | redis.exceptions.ClusterDownError):
        return BrokerUnavailable(
            f"Redis is a cluster of several nodes, and the one of REDIS_URL does not serve the key {key}:"
            " use one that stands alone, or a cluster of one node"
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return BrokerUnavailable(f"{error}; docs/compatibility.md has the rights that the user in Redis needs")
    return BrokerUnavailable(str(error))


def redis_client(settings: Settings) -> redis.Redis:
    """Return a client that gives up quickly.

    One retry, and only when the connection turns out to be dead: a kept connection dies with a restart of the
    server, and every command of ours may safely run twice. redis-py's own default is ten retries.
    """
    return redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        health_check_interval=0,
    )


def blocking_client(client: redis.Redis, block_seconds: float) -> redis.Redis:
    """Return a client like `client`, with one connection, whose replies may take `block_seconds` longer."""
    options = dict(client.connection_pool.connection_kwargs)
    options["socket_timeout"] = (options.get("socket_timeout") or 1) + block_seconds
    pool = redis.ConnectionPool(connection_class=client.connection_pool.connection_class, **options)
    return redis.Redis(connection_pool=pool)
