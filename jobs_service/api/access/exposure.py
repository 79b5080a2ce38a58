"""Whether the API may answer requests without a key, and the check of that before it listens."""

import ipaddress

from structlog.stdlib import get_logger

from jobs_service.api.access import keys
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.errors import DatabaseUnavailable, NotReady

log = get_logger(module=__name__)


def may_be_open(settings: Settings) -> bool:
    """Tell whether the API answers requests without a key, as long as there are no keys."""
    return settings.allow_anonymous == "true" or is_loopback(settings.api_host)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a server that listens on this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check(settings: Settings) -> None:
    """Raise `NotReady` if the API would listen to other machines without any key.

    While PostgreSQL does not answer this is unknown, and the API starts: it refuses requests until it knows.
    """
    if may_be_open(settings):
        return
    database = open_database(settings, connections=1)
    try:
        has_keys = keys.are_there(database)
    except DatabaseUnavailable as error:
        log.warning("API keys not read yet; requests are refused until they are", error=str(error))
        return
    finally:
        database.discard()
    if not has_keys:
        raise NotReady(
            f"other machines can reach API_HOST {settings.api_host}, and there is no API key: create one with "
            "`python -m jobs_service keys create NAME --scope jobs:read --scope jobs:write`, or set "
            "API_HOST=127.0.0.1, or ALLOW_ANONYMOUS=true if only those can reach the port who may do everything"
        )
