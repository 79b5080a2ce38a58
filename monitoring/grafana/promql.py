"""PromQL expressions that several dashboards use."""

from panels import Query

#: The queues selected at the top of the page.
QUEUES = 'queue_name=~"$queue_name"'
#: The job types selected at the top of the page.
TYPES = 'actor_name=~"$actor_name"'
#: The window that Grafana adapts to the time range: at least four scrapes.
WINDOW = "$__rate_interval"


def truth(metric: str, by: str, matchers: str = QUEUES) -> str:
    """Return a gauge read from PostgreSQL or Redis. Several processes export the same value; max() takes one."""
    selector = _selector(matchers)
    return f"max by ({by}) ({metric}{selector})" if by else f"max({metric}{selector})"


def rate(metric: str, by: str, matchers: str = QUEUES) -> str:
    """Return the rate per second, summed over the processes, by these labels."""
    return _sum(f"rate({metric}{_selector(matchers)}[{WINDOW}])", by)


def increase(metric: str, by: str, matchers: str = QUEUES, window: str = WINDOW) -> str:
    """Return the increase in the window, summed over the processes, by these labels."""
    return _sum(f"increase({metric}{_selector(matchers)}[{window}])", by)


def quantile(share: float, histogram: str, by: str, matchers: str = QUEUES) -> str:
    """Return a quantile of a histogram: the value that this share of its observations does not exceed."""
    buckets = rate(f"{histogram}_bucket", f"le, {by}" if by else "le", matchers)
    return f"histogram_quantile({share}, {buckets})"


def quantiles(histogram: str, matchers: str = QUEUES) -> list[Query]:
    """Return the 50th, 95th and 99th percentiles of a histogram."""
    return [Query(quantile(share, histogram, "", matchers), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)]


def cells(histogram: str, matchers: str = QUEUES) -> str:
    """Return a histogram's buckets over time, for a heatmap."""
    return increase(f"{histogram}_bucket", "le", matchers)


def _sum(inner: str, by: str) -> str:
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def _selector(matchers: str) -> str:
    return f"{{{matchers}}}" if matchers else ""
