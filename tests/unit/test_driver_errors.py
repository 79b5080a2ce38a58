"""What psycopg2 and peewee raise of a statement becomes an error of ours, with PostgreSQL's code."""

import peewee
import psycopg2
import pytest

from jobs_service.database import driver_errors
from jobs_service.database.driver_errors import Silent
from jobs_service.errors import (
    ConnectionLost,
    DatabaseUnavailable,
    NoAnswer,
    SchemaUnavailable,
    StatementRefused,
    ValueRefused,
)


def coded(sqlstate, message="refused"):
    """Return the error that psycopg2 raises for a code."""
    error = psycopg2.errors.lookup(sqlstate)(message)
    error.__setstate__({"pgcode": sqlstate})
    return error


def through_peewee(error):
    """Return what peewee raises in place of an error of the driver."""
    with pytest.raises(peewee.PeeweeException) as caught, peewee.__exception_wrapper__:
        raise error
    return caught.value


EXPECTED = [
    (Silent("no answer in 3 s"), NoAnswer, None),
    (psycopg2.OperationalError("server closed the connection"), ConnectionLost, None),
    (psycopg2.InterfaceError("connection already closed"), ConnectionLost, None),
    (psycopg2.DatabaseError("server closed the connection unexpectedly"), ConnectionLost, None),
    (coded("25006"), ConnectionLost, "25006"),
    (coded("57014"), DatabaseUnavailable, "57014"),
    (coded("42P01"), SchemaUnavailable, "42P01"),
    (coded("42703"), SchemaUnavailable, "42703"),
    (coded("42501"), SchemaUnavailable, "42501"),
    (coded("3F000"), SchemaUnavailable, "3F000"),
    (coded("22003"), ValueRefused, "22003"),
    (coded("42601"), StatementRefused, "42601"),
    (coded("23505"), StatementRefused, "23505"),
]


@pytest.mark.parametrize("raised", [lambda error: error, through_peewee], ids=["psycopg2", "peewee"])
@pytest.mark.parametrize(("error", "expected", "sqlstate"), EXPECTED, ids=str)
def test_each_has_one_meaning_whichever_library_raises_it(raised, error, expected, sqlstate):
    found = driver_errors.of_statement(raised(error))

    assert (expected, sqlstate) == (type(found), found.sqlstate)


def test_an_error_that_peewee_raises_itself_is_a_lost_connection_where_it_has_none():
    assert ConnectionLost is type(driver_errors.of_statement(peewee.InterfaceError("connection not opened")))


def test_the_message_is_the_first_line():
    found = driver_errors.of_statement(psycopg2.DataError('invalid input\nLINE 1: SELECT "secret"'))

    assert "invalid input" == str(found)


def test_of_connecting_the_message_has_each_attempt_and_no_hint():
    found = driver_errors.of_connecting(
        psycopg2.OperationalError("host a: refused\n\tIs the server running?\nhost b: timeout expired\n")
    )

    assert "host a: refused; host b: timeout expired" == str(found)


@pytest.mark.parametrize("kind", [DatabaseUnavailable, StatementRefused, ValueRefused, NoAnswer, ConnectionLost])
def test_peewee_lets_our_errors_through(kind):
    """It raises its own in place of errors whose class, or whose first base, has a name of the DB-API."""
    with pytest.raises(kind), peewee.__exception_wrapper__:
        raise kind("away")
