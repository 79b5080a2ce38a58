"""Dramatiq's seven metrics, derived from ours at the scrape. Nothing is counted twice, so the two cannot disagree.

Dramatiq's own middleware (2.2.1) would count each delayed retry twice, leave its gauge of delayed messages above 0, and
take its gauge of running messages below 0 when a message is skipped.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from jobs_service.metrics import catalogue

#: Bounds of Dramatiq's histogram, in milliseconds.
BUCKETS = (5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000, 30000, 60000, 600000, 900000)

#: Outcome of an attempt -> the counters in which Dramatiq counts it.
_COUNTED = {
    "completed": (catalogue.DRAMATIQ_MESSAGES,),
    "retried": (catalogue.DRAMATIQ_MESSAGES, catalogue.DRAMATIQ_ERRORS, catalogue.DRAMATIQ_RETRIES),
    "failed": (catalogue.DRAMATIQ_MESSAGES, catalogue.DRAMATIQ_ERRORS),
    "released": (catalogue.DRAMATIQ_MESSAGES,),
    "refused": (catalogue.DRAMATIQ_MESSAGES,),
    "interrupted": (catalogue.DRAMATIQ_MESSAGES,),
}

_Job = tuple[str, str]
_Values = Mapping[_Job, float]


def made_of(families: Iterable[Metric]) -> Iterator[Metric]:
    """Yield the seven metrics derived from the workers' metrics, or nothing if there are no such metrics."""
    samples = {family.name: family.samples for family in families}
    if "jobs_attempts" not in samples:
        return
    yield from _attempts(samples["jobs_attempts"])
    yield _family(catalogue.DRAMATIQ_REJECTS, _dead_letters(samples.get("jobs_dead_letters", [])))
    running = {_job(sample): sample.value for sample in samples.get("jobs_worker_running", [])}
    yield _family(catalogue.DRAMATIQ_IN_PROGRESS, running)
    yield _family(catalogue.DRAMATIQ_DELAYED, dict.fromkeys(running, 0.0))
    yield _durations(samples.get("jobs_run_duration_seconds", []))


def _attempts(samples: Iterable[Any]) -> Iterator[Metric]:
    counts: dict[catalogue.Computed, defaultdict[_Job, float]] = {
        row: defaultdict(float)
        for row in (catalogue.DRAMATIQ_MESSAGES, catalogue.DRAMATIQ_ERRORS, catalogue.DRAMATIQ_RETRIES)
    }
    for sample in samples:
        for row in _COUNTED.get(sample.labels["outcome"], ()):
            counts[row][_job(sample)] += sample.value
    for row, values in counts.items():
        yield _family(row, values)


def _dead_letters(samples: Iterable[Any]) -> _Values:
    counts: defaultdict[_Job, float] = defaultdict(float)
    for sample in samples:
        counts[_job(sample)] += sample.value
    return counts


def _durations(samples: Iterable[Any]) -> Metric:
    """Return Dramatiq's histogram in milliseconds. Ours has all of its buckets, in seconds."""
    counts: defaultdict[_Job, dict[float, float]] = defaultdict(dict)
    sums: defaultdict[_Job, float] = defaultdict(float)
    for sample in samples:
        if sample.name.endswith("_bucket"):
            counts[_job(sample)][float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_sum"):
            sums[_job(sample)] = sample.value * 1000
    family: HistogramMetricFamily = catalogue.DRAMATIQ_DURATION.family()
    for job, buckets in counts.items():
        bounds = [(floatToGoString(bound), buckets[bound / 1000]) for bound in (*map(float, BUCKETS), float("inf"))]
        family.add_metric(job, buckets=bounds, sum_value=sums[job])
    return family


def _family(row: catalogue.Computed, values: _Values) -> Metric:
    family: GaugeMetricFamily | CounterMetricFamily = row.family()
    for job, value in values.items():
        family.add_metric(job, value)
    return family


def _job(sample: Any) -> _Job:  # noqa: ANN401 - prometheus-client's Sample
    return (sample.labels["queue_name"], sample.labels["actor_name"])
