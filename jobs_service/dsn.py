"""Parses DATABASE_URL as libpq does: its parameters, and the settings in its `options`.

Outside of `database/`, because the settings check it before there is a database: a folder that `config` may not import.
"""

import re
from collections.abc import Mapping

import psycopg2
import psycopg2.extensions

_UNKNOWN = re.compile(r'invalid URI query parameter: "(.*)"')


def parameters_of(url: str) -> dict[str, str]:
    """Return libpq's parameters of a URL. Raises `ValueError` without quoting the URL, which holds a password."""
    try:
        found: dict[str, str] = psycopg2.extensions.parse_dsn(url.replace("postgres://", "postgresql://", 1))
    except psycopg2.ProgrammingError as error:
        if unknown := _UNKNOWN.search(str(error)):
            raise ValueError(f"PostgreSQL has no connection parameter {unknown[1]!r}; remove it") from None
        raise ValueError(
            "expected postgresql://user:password@host:port/name, with special characters encoded as %XX"
        ) from None
    return found


def settings_of(options: str) -> dict[str, str]:
    """Return the settings in `options`, such as -c search_path=team_a. Raises `ValueError` for anything else."""
    words = iter([re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options)])
    settings = {}
    for word in words:
        setting = next(words, "") if word == "-c" else word.removeprefix("--" if word.startswith("--") else "-c")
        name, equals, value = setting.partition("=")
        if not word.startswith(("-c", "--")) or not re.fullmatch(r"[A-Za-z_][\w.-]*", name) or not equals:
            raise ValueError("its options may only be settings, as in options=-c%20search_path%3Dteam_a")
        settings[name.lower().replace("-", "_")] = value
    return settings


def written(settings: Mapping[str, str]) -> str:
    """Return settings in the form of `options`, which `settings_of` reads."""
    return " ".join(f"-c {name}=" + re.sub(r"([\\\s])", r"\\\1", value) for name, value in settings.items())
