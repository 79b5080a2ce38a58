"""The settings."""

import dataclasses

import pytest

from jobs_service.config import FORMER_NAMES, Settings, variable
from jobs_service.errors import SettingsError

REQUIRED = {"DATABASE_URL": "postgresql://user:secret@db:5432/jobs_db", "REDIS_URL": "redis://:hidden@redis:6379"}


def test_the_required_settings_are_enough():
    settings = Settings.from_env(REQUIRED)

    assert 3000 == settings.api_port
    assert REQUIRED["DATABASE_URL"] == settings.database_url


def test_an_empty_variable_counts_as_unset():
    assert 3000 == Settings.from_env(REQUIRED | {"API_PORT": " "}).api_port


def test_every_problem_is_reported_at_once_by_name():
    wrong = {"DATABASE_URL": "mysql://x", "API_PORT": "70000", "MAIL_TLS": "maybe", "LEASE_SECONDS": "-1"}

    with pytest.raises(SettingsError) as caught:
        Settings.from_env(wrong)

    names = [problem.split()[0] for problem in caught.value.problems]
    assert ["DATABASE_URL", "REDIS_URL", "API_PORT", "MAIL_TLS", "LEASE_SECONDS"] == names
    assert "REDIS_URL is not set: expected redis://user:password@host:port/name" in caught.value.problems


@pytest.mark.parametrize(("former", "name"), FORMER_NAMES.items())
def test_a_former_name_is_refused_with_the_one_that_took_its_place(former, name):
    with pytest.raises(SettingsError, match=f"{former} was renamed: set {name} instead"):
        Settings.from_env(REQUIRED | {former: "1"})

    assert name in {variable(field) for field in dataclasses.fields(Settings)}
    Settings.from_env(REQUIRED | {former: ""})


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"HEARTBEAT_INTERVAL_SECONDS": "10", "LEASE_SECONDS": "15"}, ["HEARTBEAT_INTERVAL_SECONDS", "LEASE_SECONDS"]),
        ({"RETRY_BACKOFF_SECONDS": "9", "RETRY_BACKOFF_MAX_SECONDS": "8"}, ["RETRY_BACKOFF_MAX_SECONDS"]),
        ({"DEFER_SECONDS": "9", "DEFER_MAX_SECONDS": "8"}, ["DEFER_MAX_SECONDS"]),
        ({"MAIL_USERNAME": "x"}, ["MAIL_PASSWORD"]),
        ({"REDIS_TIMEOUT_SECONDS": "5"}, ["REDIS_TIMEOUT_SECONDS (5)", "DATABASE_STATEMENT_TIMEOUT_SECONDS (5)"]),
        ({"DATABASE_CONNECT_TIMEOUT_SECONDS": "6"}, ["DATABASE_CONNECT", "DATABASE_STATEMENT_TIMEOUT_SECONDS (5)"]),
        ({"DATABASE_STATEMENT_TIMEOUT_SECONDS": "60"}, ["DATABASE_STATEMENT_TIMEOUT_SECONDS (60)", "TIME_LIMIT"]),
        ({"MAIL_TIMEOUT_SECONDS": "90"}, ["MAIL_TIMEOUT_SECONDS (90)", "TIME_LIMIT_SECONDS (60)"]),
        ({"TIME_LIMIT_SECONDS": "65"}, ["TIME_LIMIT_SECONDS + HANG_GRACE_SECONDS (75)", "WORKER_SHUTDOWN"]),
        ({"HANG_GRACE_SECONDS": "20"}, ["HANG_GRACE_SECONDS (80)", "WORKER_SHUTDOWN_SECONDS (75)"]),
        ({"STOP_GRACE_SECONDS": "75"}, ["WORKER_SHUTDOWN_SECONDS (75)", "STOP_GRACE_SECONDS (75)"]),
    ],
)
def test_settings_that_do_not_fit_together_are_named(variables, named):
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(REQUIRED | variables)

    assert all(name in str(caught.value) for name in named)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("mail.example.com", "mail.example.com"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8::1]", "[IPv6:2001:db8::1]"),
        ("[2001:db8::1]", "[IPv6:2001:db8::1]"),
    ],
)
def test_the_name_in_ehlo_is_a_domain_or_an_address_in_brackets(value, name):
    assert name == Settings.from_env(REQUIRED | {"MAIL_EHLO_NAME": value}).mail_ehlo_name


@pytest.mark.parametrize(
    "value",
    ["my_host", "a b", "a\r\nMAIL", "[192.0.2]", "[example.com]", "-a.example", "a..b", "bücher.example", "a" * 64],
)
def test_a_name_that_no_server_takes_in_ehlo_is_refused(value):
    with pytest.raises(SettingsError, match="MAIL_EHLO_NAME is wrong: expected a full host name"):
        Settings.from_env(REQUIRED | {"MAIL_EHLO_NAME": value})


def test_passwords_stay_out_of_repr():
    shown = repr(Settings.from_env(REQUIRED | {"MAIL_USERNAME": "u", "MAIL_PASSWORD": "also-secret"}))

    assert "secret" not in shown
    assert "hidden" not in shown


def test_every_field_is_read_from_the_variable_of_its_name():
    assert {"API_PORT", "DATABASE_URL", "REDIS_URL", "MAIL_HOST"} <= {
        variable(field) for field in dataclasses.fields(Settings)
    }


def test_a_stop_has_time_for_its_verdicts_before_it_is_killed():
    settings = Settings.from_env(REQUIRED | {"WORKER_SHUTDOWN_SECONDS": "80", "STOP_GRACE_SECONDS": "100"})

    assert 80 < settings.give_back_seconds < settings.kill_after_seconds < 100


def test_ordinary_failures_are_tried_again_for_minutes_by_default():
    """Longer than a failover or a deployment takes, and not so long that nobody hears of a fault in the code."""
    settings = Settings.from_env(REQUIRED)
    shortest = sum(settings.retry_backoff_seconds * 2**place for place in range(settings.max_attempts - 1))

    assert 600 < shortest < 2 * shortest < 1_800
