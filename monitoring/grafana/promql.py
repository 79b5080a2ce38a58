"""PromQL that more than one dashboard writes."""

from panels import Query

#: The queues chosen at the top of the page.
QUEUES = 'queue_name=~"$queue_name"'
#: The job types chosen at the top of the page.
TYPES = 'actor_name=~"$actor_name"'
#: The window that fits the zoom: at least four scrapes.
WINDOW = "$__rate_interval"


def truth(metric: str, by: str, matchers: str = QUEUES) -> str:
    """Return a gauge that PostgreSQL or Redis answers for: several processes export the same, so one is taken."""
    selector = _selector(matchers)
    return f"max by ({by}) ({metric}{selector})" if by else f"max({metric}{selector})"


def rate(metric: str, by: str, matchers: str = QUEUES) -> str:
    """Return how often per second, summed over the processes, by these labels."""
    return _sum(f"rate({metric}{_selector(matchers)}[{WINDOW}])", by)


def increase(metric: str, by: str, matchers: str = QUEUES, window: str = WINDOW) -> str:
    """Return how often in the window, summed over the processes, by these labels."""
    return _sum(f"increase({metric}{_selector(matchers)}[{window}])", by)


def quantile(share: float, histogram: str, by: str, matchers: str = QUEUES) -> str:
    """Return the value below which this share of what a histogram saw lies."""
    buckets = rate(f"{histogram}_bucket", f"le, {by}" if by else "le", matchers)
    return f"histogram_quantile({share}, {buckets})"


def quantiles(histogram: str, matchers: str = QUEUES) -> list[Query]:
    """Return what half of what a histogram saw stayed below, and all but a twentieth, and all but a hundredth."""
    return [Query(quantile(share, histogram, "", matchers), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)]


def cells(histogram: str, matchers: str = QUEUES) -> str:
    """Return a histogram's buckets over time, for a heatmap."""
    return increase(f"{histogram}_bucket", "le", matchers)


def _sum(inner: str, by: str) -> str:
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def _selector(matchers: str) -> str:
    return f"{{{matchers}}}" if matchers else ""
