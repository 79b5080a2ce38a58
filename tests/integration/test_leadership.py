"""Who leads maintenance: a lease in a row, and what its leader does in which order."""

import itertools
import threading
from uuid import uuid4

import pytest
from eventually import eventually
from time_travel import HOUR, set_dates

from jobs_service.database.connection import open_database
from jobs_service.errors import DatabaseUnavailable
from jobs_service.maintenance import leadership as leadership_module
from jobs_service.maintenance.leader import Maintenance
from jobs_service.maintenance.leadership import Leadership
from jobs_service.maintenance.service import Service


@pytest.fixture
def contender(database):
    """Make processes' parts in the lease. By default it is long enough for any test."""

    def contender(seconds=3_600):
        return Leadership(database, uuid4(), lease_seconds=seconds)

    return contender


def expire(database):
    set_dates(database.rows, "leases", expires_at=-1)


def test_one_of_two_is_elected_and_the_other_follows_when_its_lease_has_run_out(contender, database):
    first, second = contender(), contender()

    assert first.ensure()
    assert not second.ensure()
    assert (1, None) == (first.token, second.token)

    expire(database)

    assert second.ensure()
    assert 2 == second.token


def test_who_resigns_is_followed_at_once(contender):
    first, second = contender(), contender()
    first.ensure()

    first.resign()

    assert not first.is_held
    assert second.ensure()


def test_to_resign_from_a_lease_that_another_holds_takes_nothing_from_it(contender, database):
    first, second = contender(), contender()
    first.ensure()
    expire(database)
    second.ensure()

    first.resign()

    assert not contender().ensure()
    assert second.ensure()


def test_a_renewal_keeps_the_token_and_moves_the_end(contender, database):
    leader = contender()
    leader.ensure()
    before = database.row("SELECT expires_at FROM leases")
    leader._renewed_at -= 3_600 / 3

    assert leader.ensure()

    assert 1 == leader.token
    assert before < database.row("SELECT expires_at FROM leases")


def test_a_renewal_that_comes_too_late_finds_the_other(contender, database):
    first, second = contender(), contender()
    first.ensure()
    expire(database)
    second.ensure()
    first._renewed_at -= 3_600 / 3

    assert not first.ensure()
    assert first.token is None


def test_a_lease_from_before_the_clock_was_set_back_has_run_out(contender, database):
    first, second = contender(), contender()
    first.ensure()
    set_dates(database.rows, "leases", expires_at=2 * HOUR)

    assert second.ensure()
    assert 2 == second.token


def test_the_leader_that_cannot_renew_stops_before_its_lease_ends(contender, monkeypatch):
    leader = contender()
    leader.ensure()
    monkeypatch.setattr(leader.database, "row", _unavailable)

    leader._renewed_at -= 3_000
    assert leader.ensure()
    leader._renewed_at -= 600
    assert not leader.is_held
    assert not leader.ensure()


def test_of_many_that_ask_at_once_one_is_elected(settings):
    """The upsert decides, also between those that found no row yet."""
    ready, elected = threading.Barrier(8), []

    def ask():
        database = open_database(settings)
        one = Leadership(database, uuid4(), lease_seconds=3_600)
        database.row("SELECT 1")
        ready.wait()
        elected.append(one.ensure())
        database.discard()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [True] == [each for each in elected if each]


def test_who_finds_the_lease_held_writes_nothing(contender, database):
    contender().ensure()
    before = database.row("SELECT xmax, ctid::text FROM leases")

    assert not contender().ensure()

    assert before == database.row("SELECT xmax, ctid::text FROM leases")


def test_a_read_only_server_elects_nobody_and_is_told_of_once(settings, monkeypatch):
    told = []
    monkeypatch.setattr(leadership_module.log, "warning", lambda text, **_: told.append(text))
    database = open_database(settings)
    database.rows(f"ALTER DATABASE {settings.database_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    database.discard()
    one = Leadership(database, uuid4(), lease_seconds=3_600)

    assert [False] * 3 == [one.ensure() for _ in range(3)]
    assert 1 == len(told)
    database.discard()


class Chore(Service):
    def __init__(self, name, interval_seconds, ran, *, has_more=False):
        self.name = name
        self.interval_seconds = interval_seconds
        self.ran = ran
        self.has_more = has_more

    def run_once(self, turn):
        self.ran.append((self.name, turn.fence))
        if self.has_more:
            turn.again()
        return {}


def names(ran):
    return [name for name, _ in ran]


def test_services_run_under_the_leases_token(contender, database):
    ran = []
    maintenance = Maintenance([Chore("chore", 60, ran)], contender())

    assert 0 == maintenance._turn()
    assert maintenance._turn() > 0
    expire(database)
    contender().ensure()
    maintenance.leadership._renewed_at -= 3_600
    maintenance._turn()
    expire(database)
    maintenance._turn()

    assert [("chore", 1), ("chore", 3)] == ran


def test_one_with_much_to_do_lets_the_others_run_when_their_time_has_come(contender, monkeypatch):
    """A busy relay comes again at once; a chore of a longer interval waits at most for as long as that."""
    ran, now = [], [1_000.0]
    chores = [Chore("busy", 1, ran, has_more=True), Chore("sweep", 5, ran), Chore("seldom", 20, ran)]
    maintenance = Maintenance(chores, contender())
    monkeypatch.setattr("jobs_service.maintenance.leader.time.monotonic", lambda: now[0])
    monkeypatch.setattr(maintenance.leadership, "ensure", lambda: True)
    maintenance.leadership.token = 1
    ran_at = {"sweep": [], "seldom": []}
    for _ in range(400):
        maintenance._turn()
        now[0] += 0.5
        if ran[-1][0] != "busy":
            ran_at[ran[-1][0]].append(now[0])

    for name, seconds in (("sweep", 5), ("seldom", 20)):
        times = ran_at[name]
        assert len(times) >= 4
        # Its interval with its jitter, the same again for waiting, and the run that was under way.
        assert max(b - a for a, b in itertools.pairwise(times)) <= 2.1 * seconds + 1


def test_the_urgent_sweep_goes_before_the_rest(contender):
    ran = []

    class Urgent(Chore):
        slack_seconds = 0

    chores = [Chore("first in the list", 1, ran), Chore("seldom", 60, ran), Urgent("urgent", 5, ran)]
    maintenance = Maintenance(chores, contender())
    for _ in range(3):
        maintenance._turn()

    assert ["urgent", "first in the list", "seldom"] == names(ran)


def test_a_chore_that_fails_holds_up_no_other_and_is_tried_again(contender):
    ran = []

    class Failing(Chore):
        def run_once(self, turn):
            super().run_once(turn)
            raise RuntimeError("a bug")

    maintenance = Maintenance([Failing("failing", 0.001, ran), Chore("other", 0.001, ran)], contender())
    eventually(lambda: maintenance._turn() is not None and names(ran).count("failing") >= 3, what="further tries")

    assert "other" in names(ran)


def test_a_stop_resigns(contender):
    maintenance = Maintenance([], contender())
    maintenance.start()
    eventually(lambda: maintenance.leadership.is_held, what="a leader")
    assert maintenance.is_alive()

    maintenance.stop()

    assert not maintenance.is_alive()
    assert contender().ensure()


def _unavailable(*_, **__):
    raise DatabaseUnavailable("away")
