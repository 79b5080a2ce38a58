"""Every setting: one frozen object, read once from the environment. `.env.example` and a test mirror this list."""

import dataclasses
import ipaddress
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import redis

from jobs_service import dsn, output_url
from jobs_service.errors import SettingsError


def _text(value: str) -> str:
    return value


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return value.lower()

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"\d{1,18}", value) or not low <= int(value) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(value)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value) or not low <= float(value) <= high:
            raise ValueError(f"expected seconds from {low:g} to {high:g}")
        return float(value)

    return parse


def _ratio(value: str) -> float:
    if not re.fullmatch(r"0\.\d{1,6}", value) or not 0 < float(value) < 1:
        raise ValueError("expected a number between 0 and 1, such as 0.99")
    return float(value)


def seconds_by_name(value: str) -> dict[str, float]:
    """Parse a text such as mail=300,reports=3600 into {name: seconds}. Raises `ValueError`."""
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name.strip() for name, _, _ in pairs):
        raise ValueError("expected name=seconds pairs separated by commas, such as mail=300,reports=3600")
    return {name.strip(): _seconds(0.001, 31_536_000)(seconds.strip()) for name, _, seconds in pairs}


def numbers_by_name(value: str) -> dict[str, int]:
    """Parse a text such as EMAIL_SEND=8,csv-generation=2 into {name: number}. Raises `ValueError`."""
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name.strip() for name, _, _ in pairs):
        raise ValueError("expected type=number pairs separated by commas, such as EMAIL_SEND=8,csv-generation=2")
    return {name.strip(): _whole(1, 256)(number.strip()) for name, _, number in pairs}


def _numbers_by_name(value: str) -> str:
    numbers_by_name(value)
    return value


def _seconds_by_name(value: str) -> str:
    seconds_by_name(value)
    return value


def _url(*schemes: str) -> Callable[[str], str]:
    example = f"{schemes[0]}://user:password@host:port/name"

    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not (parts.hostname or parts.query):
            raise ValueError(f"expected {example}")
        return value

    return parse


def _postgresql_url(value: str) -> str:
    _url("postgresql", "postgres")(value)
    dsn.settings_of(dsn.parameters_of(value).get("options", ""))
    return value


def _redis_url(value: str) -> str:
    """Accept what redis-py accepts. Its error messages are not passed on, since they may quote part of a password."""
    _url("redis", "rediss", "unix")(value)
    try:
        pool = redis.ConnectionPool.from_url(value)
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ValueError(f"redis-py has no parameter {str(error).rpartition(' ')[2]}; remove it") from None
    except (ValueError, redis.RedisError):
        raise ValueError(
            "expected redis://user:password@host:port/name, with special characters encoded as %XX"
        ) from None
    return value


def _output_url(value: str) -> str:
    output_url.location_of(value)
    return value


def _prefix(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", value):
        raise ValueError("expected a path without a trailing slash, such as /jobs-api")
    return value


def _page_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("expected an address without a password, such as https://jobs.example.com")
    return value.rstrip("/")


def _key_prefix(value: str) -> str:
    # No braces, which select the hash slot in a Redis cluster, and no wildcards of ACL patterns.
    if not re.fullmatch(r"[A-Za-z0-9._:/-]{1,64}", value):
        raise ValueError("expected 1 to 64 letters, digits or characters of . _ : / - such as team-a:")
    return value


def _host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", value):
            raise ValueError("expected a host name or an IP address, such as 127.0.0.1") from None
    return value


def _api_key(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{1,128}", value):
        raise ValueError("expected a key that `python -m jobs_service keys create` has printed")
    return value


def _ehlo_name(value: str) -> str:
    """Accept a domain, or an IP address in brackets (RFC 5321, section 4.1.3)."""
    literal = re.fullmatch(r"\[(?:IPv6:)?([0-9A-Fa-f:.]+)\]", value)
    try:
        return f"[{_literal(literal[1])}]" if literal else _domain(value)
    except ValueError:
        raise ValueError(
            "expected a full host name, such as mail.example.com, or an IP address in brackets, such as [192.0.2.1]"
        ) from None


def _literal(address: str) -> str:
    ip = ipaddress.ip_address(address)
    return f"IPv6:{ip}" if ip.version == 6 else str(ip)  # noqa: PLR2004 - IPv6


def _domain(value: str) -> str:
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if len(value) > 253 or not re.fullmatch(rf"{label}(\.{label})*", value):  # noqa: PLR2004 - RFC 1035, section 2.3.4
        raise ValueError
    return value


def _setting(default: object, parse: Callable[[str], object], *, secret: bool = False) -> Any:  # noqa: ANN401
    return dataclasses.field(default=default, metadata={"parse": parse}, repr=not secret)


def _required(parse: Callable[[str], object]) -> Any:  # noqa: ANN401
    return dataclasses.field(metadata={"parse": parse}, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings. Each field is read from the environment variable of the same name in capitals.

    The name says the unit. Whatever may hold a password is left out of `repr()`.
    """

    # Servers.
    database_url: str = _required(_postgresql_url)
    redis_url: str = _required(_redis_url)
    database_connect_timeout_seconds: int = _setting(3, _whole(1, 60))
    database_statement_timeout_seconds: int = _setting(5, _whole(1, 600))
    redis_prefix: str = _setting("", _key_prefix)
    database_connections: int = _setting(2, _whole(1, 100))
    database_idle_seconds: float = _setting(60.0, _seconds(0.1, 86_400))
    database_prepared_statements: str = _setting("auto", _choice("auto", "off"))
    redis_timeout_seconds: float = _setting(1.0, _seconds(0.05, 60))

    # The API.
    api_host: str = _setting("127.0.0.1", _host)
    api_port: int = _setting(3000, _whole(1, 65535))
    api_processes: int = _setting(2, _whole(1, 64))
    api_threads: int = _setting(4, _whole(1, 256))
    api_request_timeout_seconds: float = _setting(60.0, _seconds(0.1, 600))
    api_keepalive_seconds: int = _setting(75, _whole(1, 3_600))
    api_prefix: str = _setting("", _prefix)
    max_body_bytes: int = _setting(1_048_576, _whole(1_024, 104_857_600))
    # Where people find the console and Grafana, for the links between them. Without the first, links are relative.
    console_url: str = _setting("", _page_url)
    grafana_url: str = _setting("", _page_url)
    # Access, and limits to the load. 0 is no limit.
    allow_anonymous: str = _setting("false", _choice("true", "false"))
    rate_limit_per_second: int = _setting(0, _whole(0, 999_999))
    rate_limit_burst: int = _setting(0, _whole(0, 999_999))
    queue_limit: int = _setting(0, _whole(0, 10_000_000))
    max_batch_bytes: int = _setting(16_777_216, _whole(1_024, 1_073_741_824))
    idempotency_key_seconds: int = _setting(86_400, _whole(1, 31_536_000))

    # E-mail.
    mail_host: str = _setting("localhost", _host)
    mail_port: int = _setting(1025, _whole(1, 65535))
    mail_username: str = _setting("", _text)
    mail_password: str = _setting("", _text, secret=True)
    mail_tls: str = _setting("none", _choice("none", "starttls", "tls"))
    mail_from: str = _setting("jobs@example.com", _text)
    mail_ehlo_name: str = _setting("", _ehlo_name)
    mail_timeout_seconds: float = _setting(20.0, _seconds(0.1, 300))

    # Files.
    output_dir: str = _setting("output", _text)
    output_url: str = _setting("", _output_url, secret=True)
    output_timeout_seconds: float = _setting(20.0, _seconds(0.1, 300))

    # Modules with further job types, besides those in actors/, separated by commas.
    actor_modules: str = _setting("", _text)

    # Attempts.
    max_attempts: int = _setting(8, _whole(1, 100))
    retry_backoff_seconds: float = _setting(5.0, _seconds(0, 86_400))
    retry_backoff_max_seconds: float = _setting(3_600.0, _seconds(0, 604_800))
    # Attempts deferred because a server was unavailable.
    defer_seconds: float = _setting(4.0, _seconds(0.01, 3_600))
    defer_max_seconds: float = _setting(3_600.0, _seconds(0.01, 604_800))
    defer_limit_seconds: float = _setting(432_000.0, _seconds(0.1, 31_536_000))
    defer_probe_seconds: float = _setting(300.0, _seconds(0.01, 86_400))
    time_limit_seconds: float = _setting(60.0, _seconds(1, 86_400))
    hang_grace_seconds: float = _setting(10.0, _seconds(0.5, 600))

    # Workers.
    worker_processes: int = _setting(2, _whole(1, 64))
    worker_threads: int = _setting(16, _whole(1, 256))
    max_running: str = _setting("", _numbers_by_name)
    worker_shutdown_seconds: float = _setting(75.0, _seconds(1, 100_000))
    stop_grace_seconds: int = _setting(90, _whole(1, 100_000))

    # Liveness, publishing and maintenance. docs/architecture.md explains how these work together.
    heartbeat_interval_seconds: float = _setting(5.0, _seconds(0.05, 300))
    lease_seconds: float = _setting(15.0, _seconds(0.2, 3_600))
    sweep_interval_seconds: float = _setting(5.0, _seconds(0.05, 300))
    relay_interval_seconds: float = _setting(1.0, _seconds(0.05, 60))
    republish_seconds: float = _setting(20.0, _seconds(0.1, 3_600))
    queue_window: int = _setting(2_000, _whole(10, 100_000))

    # The text search of GET /jobs: maintenance keeps an index of the words of payloads and errors.
    search: str = _setting("on", _choice("on", "off"))

    # Retention. 0 keeps jobs forever.
    retention_completed_seconds: int = _setting(604_800, _whole(0, 3_153_600_000))
    retention_failed_seconds: int = _setting(7_776_000, _whole(0, 3_153_600_000))
    retention_cancelled_seconds: int = _setting(604_800, _whole(0, 3_153_600_000))
    events_retention_seconds: int = _setting(3_600, _whole(60, 604_800))
    prune_interval_seconds: float = _setting(10.0, _seconds(0.05, 3_600))

    # Canaries. An interval of 0 sends none. Without a URL they are submitted without going through the API.
    canary_interval_seconds: float = _setting(60.0, _seconds(0, 3_600))
    canary_url: str = _setting("", _url("http", "https"), secret=True)
    canary_key: str = _setting("", _api_key, secret=True)

    # Metrics and logs.
    metrics_host: str = _setting("127.0.0.1", _host)
    worker_metrics_port: int = _setting(9191, _whole(1, 65535))
    prometheus_multiproc_dir: str = _setting("", _text)
    metrics_access: str = _setting("internal", _choice("internal", "everyone"))
    dramatiq_metrics: str = _setting("on", _choice("on", "off"))
    log_format: str = _setting("auto", _choice("auto", "console", "json"))
    log_level: str = _setting("info", _choice("debug", "info", "warning", "error"))
    otel_enabled: str = _setting("false", _choice("true", "false"))

    # Objectives of each queue. They are exported as metrics, and the alert rules compare against those.
    slo_latency_seconds: float = _setting(60.0, _seconds(0.001, 31_536_000))
    slo_queue_latency_seconds: str = _setting("", _seconds_by_name)
    slo_latency_ratio: float = _setting(0.99, _ratio)
    slo_success_ratio: float = _setting(0.99, _ratio)
    slo_dead_letters: int = _setting(100, _whole(0, 1_000_000_000))

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings. An empty variable counts as unset. Raises `SettingsError`, which lists every problem."""
        values: dict[str, object] = {}
        problems = [
            f"{old} was renamed: set {new} instead" for old, new in FORMER_NAMES.items() if environ.get(old, "").strip()
        ]
        for field in dataclasses.fields(cls):
            try:
                if (value := _read(field, environ)) is not None:
                    values[field.name] = value
            except ValueError as error:
                problems.append(str(error))
        if not problems:
            settings = cls(**values)  # type: ignore[arg-type] # each value comes from its field's own parser
            problems = settings._conflicts()
        if problems:
            raise SettingsError(problems)
        return settings

    def _conflicts(self) -> list[str]:
        """Return a sentence for each combination of settings that are valid alone but not together."""
        rules = [
            (
                self.heartbeat_interval_seconds * 2 <= self.lease_seconds,
                "HEARTBEAT_INTERVAL_SECONDS must be at most half of LEASE_SECONDS, so that one may be late",
            ),
            (
                self.retry_backoff_seconds <= self.retry_backoff_max_seconds,
                "RETRY_BACKOFF_SECONDS must not exceed RETRY_BACKOFF_MAX_SECONDS",
            ),
            (
                self.defer_seconds <= self.defer_max_seconds,
                "DEFER_SECONDS must not exceed DEFER_MAX_SECONDS",
            ),
            (
                bool(self.mail_username) == bool(self.mail_password),
                "MAIL_USERNAME and MAIL_PASSWORD must be set together",
            ),
        ]
        return [sentence for holds, sentence in rules if not holds] + list(self._collisions())

    @property
    def hard_limit_seconds(self) -> float:
        """Seconds after which the process of an attempt that ignores its time limit is ended."""
        return self.time_limit_seconds + self.hang_grace_seconds

    @property
    def longest_timeout_seconds(self) -> int:
        """The longest time limit in seconds that a client may give a job, as `TIMEOUT_ORDER` demands."""
        return math.ceil(self.worker_shutdown_seconds - self.hang_grace_seconds) - 1

    @property
    def kill_after_seconds(self) -> float:
        """Seconds after which a worker that was told to stop is killed.

        Later than it should have ended by itself, and earlier than the platform kills the whole container.
        """
        return (self.worker_shutdown_seconds + self.stop_grace_seconds) / 2

    @property
    def give_back_seconds(self) -> float:
        """Seconds in which a worker that was told to stop must have settled its attempts.

        Shorter than `kill_after_seconds`, so that the process has time left to exit.
        """
        return self.worker_shutdown_seconds + (self.kill_after_seconds - self.worker_shutdown_seconds) * 3 / 4

    def _collisions(self) -> Iterator[str]:
        """Check `TIMEOUT_ORDER`: what waits for something else must have the longer timeout of the two."""
        for lower, upper, reason in TIMEOUT_ORDER:
            if lower == "output_timeout_seconds" and not self.output_url:
                continue  # nothing waits for a folder that long
            low, high = getattr(self, lower), getattr(self, upper)
            if low >= high:
                yield f"{variables_of(lower)} ({low:g}) must be less than {variables_of(upper)} ({high:g}): {reason}"


#: Former name -> present name. A former name is an error: if it were ignored, the default would apply silently.
FORMER_NAMES = {
    "API_REQUEST_SECONDS": "API_REQUEST_TIMEOUT_SECONDS",
    "CANARY_SECONDS": "CANARY_INTERVAL_SECONDS",
    "HEARTBEAT_SECONDS": "HEARTBEAT_INTERVAL_SECONDS",
    "PRUNE_SECONDS": "PRUNE_INTERVAL_SECONDS",
    "RELAY_SECONDS": "RELAY_INTERVAL_SECONDS",
    "SWEEP_SECONDS": "SWEEP_INTERVAL_SECONDS",
}

#: (shorter timeout, longer timeout, reason). docs/reliability.md has the same lines.
TIMEOUT_ORDER = (
    (
        "redis_timeout_seconds",
        "database_statement_timeout_seconds",
        "the service works without Redis, so it must not wait longer for Redis than for PostgreSQL",
    ),
    (
        "database_connect_timeout_seconds",
        "database_statement_timeout_seconds",
        "connecting must not take longer than the statement it is for",
    ),
    (
        "database_statement_timeout_seconds",
        "time_limit_seconds",
        "otherwise one slow statement uses up a job's whole time limit",
    ),
    (
        "mail_timeout_seconds",
        "time_limit_seconds",
        "otherwise the time limit can interrupt a mail just after it was sent, leaving its delivery unknown",
    ),
    (
        "output_timeout_seconds",
        "time_limit_seconds",
        "otherwise the time limit interrupts jobs that should wait for OUTPUT_URL's store",
    ),
    (
        "hard_limit_seconds",
        "worker_shutdown_seconds",
        "a stopping worker must give running jobs the time to finish",
    ),
    (
        "worker_shutdown_seconds",
        "stop_grace_seconds",
        "otherwise the worker is killed before it has given back its jobs",
    ),
)


def variables_of(name: str) -> str:
    """Return the environment variables that add up to a timeout of `TIMEOUT_ORDER`."""
    return "TIME_LIMIT_SECONDS + HANG_GRACE_SECONDS" if name == "hard_limit_seconds" else name.upper()


def variable(field: "dataclasses.Field[Any]") -> str:
    """Return the environment variable that sets this field."""
    return field.name.upper()


def _read(field: "dataclasses.Field[Any]", environ: Mapping[str, str]) -> object:
    name, text = variable(field), environ.get(variable(field), "").strip()
    if not text:
        if field.default is dataclasses.MISSING:
            raise ValueError(f"{name} is not set: {_expectation(field)}")
        return None
    try:
        return field.metadata["parse"](text)
    except ValueError as error:
        raise ValueError(f"{name} is wrong: {error}{_example(field)}") from None


def _example(field: "dataclasses.Field[Any]") -> str:
    """Return the default of a number as an example. The other parsers give their own examples."""
    default = field.default
    return f", such as {default:.10g}" if isinstance(default, int | float) and default >= 1 else ""


def _expectation(field: "dataclasses.Field[Any]") -> str:
    try:
        field.metadata["parse"]("")
    except ValueError as error:
        return str(error)
    return "expected a value"
