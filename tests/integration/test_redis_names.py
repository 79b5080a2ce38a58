"""Whose names in Redis are whose: prefixes, other programs, other installations, cluster mode, a user of few rights."""

import re
from pathlib import Path
from uuid import uuid4

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from eventually import eventually
from prometheus_client import CollectorRegistry, generate_latest
from rows import claim_one
from samples import a_failure, new_job
from service import Service

from devstack.ports import free_port
from devstack.servers import Valkey
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.epoch import Epoch
from jobs_service.broker.keys import Keys
from jobs_service.broker.neighbours import FORGOTTEN_LOOKS, SEEN, Neighbours, conflicts
from jobs_service.broker.redis import JobBroker, message_for
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.errors import BrokerUnavailable, NameTaken
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.neighbours import NeighbourWatch
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.service import Turn
from jobs_service.metrics.exposition import build_collector

ROOT = Path(__file__).parents[2]

#: What the log says of a neighbour.
WARNING = "Another installation uses the same names in Redis"

#: A value of each type, as another program may have written it.
FOREIGN = {
    "string": lambda client, key: client.set(key, "x"),
    "list": lambda client, key: client.rpush(key, "x"),
    "set": lambda client, key: client.sadd(key, "x"),
    "hash": lambda client, key: client.hset(key, "x", "y"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "stream": lambda client, key: client.xadd(key, {"x": "y"}),
}


class Installation:
    """The parts of one installation that use Redis, on a database of its own."""

    def __init__(self, settings):
        self.settings = settings
        self.database = open_database(settings)
        self.broker = JobBroker.from_settings(settings)
        self.broker.declare_queue("default")
        self.dead_letters = DeadLetterList(self.broker.client, self.broker.keys)
        epoch = Epoch(self.broker.client, self.broker.keys)
        self.relay = Relay(self.database, self.broker, epoch, interval_seconds=1, republish_seconds=20)
        self.listing = DeadLetters(self.database, self.dead_letters, interval_seconds=1)
        self.consumer = self.broker.consume("default", prefetch=100, timeout=100)
        self.watch = self.leader()

    def leader(self, name="a worker"):
        """Return what a worker that leads does about neighbours."""
        me = f"{uuid4()} on {name}"
        return NeighbourWatch(Neighbours(self.broker.client, self.broker.keys, me), interval_seconds=1)

    def submit(self):
        job = new_job()
        lifecycle.submit(self.database, [job])
        return job.id

    def fail(self):
        claim = claim_one(self.database, self.submit(), uuid4())
        lifecycle.fail(self.database, claim, a_failure(), reason=EndReason.REJECTED)
        self.dead_letters.push(claim.job_id)
        return claim.job_id

    def popped(self):
        messages = []
        while message := next(self.consumer):
            messages.append(message.message_id)
        return sorted(messages)

    def work(self):
        """Use every key there is, once: publish, pop, set aside, fail, list anew, and look for neighbours."""
        ids = sorted(str(self.submit()) for _ in range(3))
        self.relay.run_once(Turn())
        self.broker.client.zadd(self.broker.key("default"), {b"no message": 0})
        assert ids == self.popped()
        assert 1 == self.broker.client.llen(self.broker.keys.undecodable)
        dead = [str(self.fail()) for _ in range(3)]
        assert dead == self.dead_letters.ids()
        self.dead_letters.remove(dead[0])
        assert {"rebuilt": 3} == self.listing.run_once(Turn())
        assert dead == self.dead_letters.ids()
        self.watch.run_once(Turn())
        assert [] == conflicts(self.broker.client, self.broker.keys, ["default"])
        with_message = message_for(new_id(), "csv-generation", "default", 5)
        self.broker.enqueue(with_message)
        self.broker.draining = True
        next(self.consumer)
        self.broker.draining = False
        assert [with_message.message_id] == self.popped()

    def close(self):
        self.consumer.close()
        self.broker.close()
        self.database.discard()


@pytest.fixture
def installation(environ, postgres):
    """Return installations with these settings: the first on the test's database, further ones on copies of it."""
    made, copies = [], []

    def installation(**changes):
        if made:
            made[0].database.discard()
            name = environ["DATABASE_URL"].rpartition("/")[2]
            copies.append(f"{name}_copy_{len(copies)}")
            postgres.execute(f"CREATE DATABASE {copies[-1]} TEMPLATE {name}")
            changes = {"DATABASE_URL": postgres.url_of(copies[-1])} | changes
        made.append(Installation(Settings.from_env(environ | changes)))
        return made[-1]

    yield installation
    for each in made:
        each.close()
    for name in copies:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_every_key_that_is_written_is_named_and_has_the_prefix(installation, client):
    installation(REDIS_PREFIX="team-a:").work()

    keys = Keys("team-a:")
    written = {key.decode() for key in client.keys("*")}
    assert keys.dead_letters in written
    assert written <= {*keys.types(["default"])}
    assert all(key.startswith(("team-a:", "{team-a:")) for key in written)


def test_installations_with_prefixes_of_their_own_do_not_disturb_each_other(installation):
    first, second = installation(REDIS_PREFIX="a:"), installation(REDIS_PREFIX="b:")
    jobs = {each: sorted(str(each.submit()) for _ in range(5)) for each in (first, second)}
    dead = {each: [str(each.fail()) for _ in range(3)] for each in (first, second)}

    for _ in range(2 * SEEN):
        for each in (first, second):
            each.relay.run_once(Turn())
            assert {"rebuilt": 0} == each.listing.run_once(Turn())
            assert {"found": 0} == each.watch.run_once(Turn())

    for each in (first, second):
        assert jobs[each] == each.popped()
        assert dead[each] == each.dead_letters.ids()


def test_a_stock_dramatiq_application_with_a_queue_of_the_same_name_is_not_touched(installation, client, redis_url):
    stock = RedisBroker(url=redis_url)
    stock.declare_queue("default")
    ours = installation()
    # Before it has a message there is nothing of it in Redis: what we wrote in its place would refuse its first one.
    ours.submit()
    ours.relay.run_once(Turn())
    sent = [stock.enqueue(dramatiq.Message("default", "theirs", (), {}, {})).message_id for _ in range(3)]
    before = {key: client.dump(key) for key in client.keys("dramatiq:*")}

    ours.popped()
    ours.work()

    assert before
    assert before == {key: client.dump(key) for key in client.keys("dramatiq:*")}
    consumer = stock.consume("default", prefetch=10, timeout=1_000)
    assert sorted(sent) == sorted(next(consumer).message_id for _ in sent)
    consumer.close()
    stock.close()


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_value_of_another_type_is_named_left_alone_and_in_nobodys_way_once_it_is_gone(installation, client, kind):
    ours = installation()
    taken = {key: own for key, own in ours.broker.keys.types(["default"]).items() if own != kind and "new" not in key}
    for key in taken:
        FOREIGN[kind](client, key)
    before = {key: client.dump(key) for key in taken}

    found = conflicts(client, ours.broker.keys, ["default"])
    ours.submit()
    ours.fail()
    for service in (ours.relay, ours.listing, ours.watch):
        try:
            service.run_once(Turn())
        except NameTaken as error:
            assert "REDIS_PREFIX" in str(error)  # noqa: PT017 - which of them refuse depends on the type
    assert next(ours.consumer) is None or kind == "zset"

    named = {key for key in taken if any(f"the key {key} holds a {kind} of another program" in line for line in found)}
    assert {*taken} == named
    assert before == {key: client.dump(key) for key in taken}
    client.delete(*taken)
    ours.popped()
    ours.relay.run_once(Turn())
    assert [] == conflicts(client, ours.broker.keys, ["default"])
    ours.listing._compared_at = 0.0
    ours.listing.run_once(Turn())
    assert 1 == ours.dead_letters.length()


def test_two_leaders_that_count_on_are_two_installations(installation, capsys):
    """A restored copy: the same rows, the same ids, the same settings but for the database."""
    original, copy = installation(), installation()

    for _ in range(SEEN):
        for each in (original, copy):
            assert {"found": 0} == each.watch.run_once(Turn(fence=1))
    # The first to count has yet to see the other one begin.
    for expected in ((0, 1), (1, 1)):
        assert expected == tuple(each.watch.run_once(Turn(fence=1))["found"] for each in (original, copy))

    for each in (original, copy):
        each.watch.run_once(Turn(fence=1))
        [sentence] = conflicts(each.broker.client, each.broker.keys, ["default"])
        assert original.watch.neighbours.me in sentence
        assert copy.watch.neighbours.me in sentence
        assert "REDIS_PREFIX" in sentence
    lines = [line for line in capsys.readouterr().out.splitlines() if WARNING in line]
    assert 2 == len(lines), "each says it once"
    [brief] = conflicts(original.broker.client, original.broker.keys, ["default"], in_full=False)
    assert copy.watch.neighbours.me not in brief

    # It counted once more behind the last look.
    for _ in range(FORGOTTEN_LOOKS + 2):
        last = original.watch.run_once(Turn(fence=1))
    assert {"found": 0} == last, "the copy was stopped"


def test_leaders_one_after_the_other_are_one_installation(installation):
    """Also where the former one, frozen and awake again, counts once more before it knows."""
    ours = installation()
    first, second = ours.leader(), ours.leader()

    for turn in range(10):
        former, leader = (first, second) if turn % 2 else (second, first)
        for _ in range(3 * SEEN):
            assert {"found": 0} == leader.run_once(Turn(fence=turn))
        former.run_once(Turn(fence=turn - 1))


def test_former_leaders_do_not_pile_up_in_redis(installation, client):
    ours = installation()
    for _ in range(5):
        ours.leader().run_once(Turn(fence=1))

    for _ in range(11 * FORGOTTEN_LOOKS):
        ours.watch.run_once(Turn(fence=2))

    assert [ours.watch.neighbours.me.encode()] == client.hkeys(ours.broker.keys.leaders)


@pytest.fixture
def services(environ, postgres, tmp_path):
    """Two installations of real processes: the second on a copy of the first one's database."""
    name = environ["DATABASE_URL"].rpartition("/")[2]
    postgres.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    urls = (environ["DATABASE_URL"], postgres.url_of(f"{name}_copy"))
    services = []
    for number, url in enumerate(urls):
        (tmp_path / str(number)).mkdir()
        services.append(Service(environ | {"DATABASE_URL": url}, tmp_path / str(number)))
    yield services
    for service in services:
        service.end()
    postgres.execute(f"DROP DATABASE {name}_copy WITH (FORCE)")


def test_two_installations_notice_each_other_everywhere_and_lose_no_job(services):
    workers = []
    for service in services:
        service.start_api()
        workers.append(service.start_worker())

    jobs = {service: [service.post("csv-generation", {"n": n}) for n in range(10)] for service in services}

    for service, worker in zip(services, workers, strict=True):
        eventually(lambda service=service, worker=worker: WARNING in service.log(worker), what="a line in the log")
        status, answer = service.get("/readyz")
        assert (200, "degraded", "ok") == (status, answer["status"], answer["checks"]["database"])
        assert "REDIS_PREFIX" in answer["checks"]["redis"]
        checked = service.run("check")
        assert 1 == checked.returncode
        [said] = checked.stderr.splitlines()
        assert "two installations" in said
        assert "_copy" in said, "it says which"
        for job_id in jobs[service]:
            service.when(job_id, "completed")


def test_check_says_of_redis_that_it_may_be_used_or_why_not_in_one_line(service, client, free_port):
    assert (0, "") == (service.run("check").returncode, service.run("check").stderr)

    client.set(Keys().queue("default"), "x")
    [said] = service.run("check").stderr.splitlines()
    assert "the key jobs:queue:{default} holds a string of another program" in said

    service.environ["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    [said] = service.run("check").stderr.splitlines()
    assert said.startswith("check: Redis cannot be used as it is: ")


class ClusterNode(Valkey):
    """A server in cluster mode that has these slots, all of them by default."""

    slots = (0, 16383)

    def __init__(self, folder, **options):
        super().__init__(folder, **options)
        # By default port + 10,000, which the kernel may have given to an outgoing connection.
        self.bus_port = free_port()

    def ports(self):
        return self.port, self.bus_port

    def command(self):
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]

    def start(self):
        super().start()
        with self.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *self.slots)
            eventually(lambda: self._is_ready(client), what="a cluster")
        return self

    def _is_ready(self, client):
        return b"cluster_slots_assigned:%d" % (self.slots[1] - self.slots[0] + 1) in self._info(client) and (
            b"cluster_state:ok" in self._info(client)
        )

    def _info(self, client):
        # Redis-py would make a mapping of it.
        client.response_callbacks.pop("CLUSTER INFO", None)
        return client.execute_command("CLUSTER INFO")


@pytest.fixture
def cluster_node(tmp_path):
    with ClusterNode(tmp_path / "cluster", save=False) as node:
        yield node


@pytest.mark.parametrize("prefix", ["", "team-a:"])
def test_one_node_in_cluster_mode_serves_everything(installation, cluster_node, prefix):
    installation(REDIS_URL=f"{cluster_node.url}/0", REDIS_PREFIX=prefix).work()


def test_a_node_that_does_not_serve_a_key_is_named_as_such(installation, cluster_node, capsys):
    ours = installation(REDIS_URL=f"{cluster_node.url}/0")
    with cluster_node.client() as client:
        client.execute_command("CLUSTER", "DELSLOTSRANGE", 0, 16383)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 0)

    def refused():
        with pytest.raises(BrokerUnavailable, match="cluster of several nodes"):
            ours.broker.enqueue(message_for(new_id(), "csv-generation", "default", 5))
        return True

    eventually(refused, what="a refusal")
    ours.popped()
    assert "cluster of several nodes" in capsys.readouterr().out


@pytest.fixture
def few_rights(valkey, redis_url):
    """The URL of a user with the rights that docs/compatibility.md names, and with those asked for beside them."""
    page = (ROOT / "docs" / "compatibility.md").read_text()
    [rights] = re.findall(r"^ACL SETUSER jobs (.+)$", page, re.MULTILINE)
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "jobs", "reset", *rights.split())
        yield redis_url.replace("redis://", "redis://jobs:password@")
        client.acl_deluser("jobs")


def test_the_documented_rights_are_enough(installation, few_rights):
    installation(REDIS_URL=few_rights).work()


def test_without_info_nothing_else_is_missing(installation, few_rights):
    ours = installation(REDIS_URL=few_rights)
    ours.fail()
    registry, types = CollectorRegistry(), Registry()
    types.add(JobType("csv-generation", dict, len))
    registry.register(build_collector(ours.settings, types))

    seen = generate_latest(registry).decode()

    for line in (
        "jobs_redis_up 1.0",
        "jobs_redis_name_conflicts 0.0",
        "jobs_dlq_length 1.0",
        'jobs_broker_messages{queue_name="default"} 0.0',
        'jobs_collector_success{collector="redis"} 1.0',
    ):
        assert line in seen.splitlines()
    assert "jobs_redis_memory_bytes" not in seen
    assert "jobs_redis_evicted_keys_total" not in seen


def test_a_right_that_is_missing_is_named(installation, valkey, few_rights):
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "jobs", "-zadd")
    ours = installation(REDIS_URL=few_rights)

    with pytest.raises(BrokerUnavailable, match=r"zadd.*docs/compatibility\.md"):
        ours.broker.enqueue(message_for(new_id(), "csv-generation", "default", 5))


def test_another_programs_value_blanks_no_other_metric(installation, client):
    ours = installation()
    client.set(ours.broker.key("default"), "x")
    client.set(ours.broker.keys.dead_letters, "x")
    registry, types = CollectorRegistry(), Registry()
    types.add(JobType("csv-generation", dict, len))
    registry.register(build_collector(ours.settings, types))

    seen = generate_latest(registry).decode().splitlines()

    assert "jobs_redis_up 1.0" in seen
    assert "jobs_redis_name_conflicts 2.0" in seen
    assert any(line.startswith('jobs_redis_memory_bytes{kind="used"}') for line in seen)
