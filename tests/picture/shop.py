"""The job types of the picture: a shop's pictures, customers and reports. They take time, and some fail."""

import random
import time
from typing import Any

from jobs_service.registry import Attempt, job


@job("resize-image", payload=dict[str, Any], queue="images")
def resize_image(payload: dict[str, Any], attempt: Attempt) -> None:  # noqa: ARG001
    time.sleep(random.lognormvariate(-2.4, 0.5))


@job("sync-customer", payload=dict[str, Any])
def sync_customer(payload: dict[str, Any], attempt: Attempt) -> None:  # noqa: ARG001
    """Fail as often as the payload's `risk` says: the customers' server is away."""
    time.sleep(random.lognormvariate(-3.2, 0.6))
    if random.random() < payload["risk"]:
        raise ConnectionError("the customers' server does not answer")


@job("build-report", payload=dict[str, Any], queue="reports")
def build_report(payload: dict[str, Any], attempt: Attempt) -> None:  # noqa: ARG001
    time.sleep(random.lognormvariate(0.3, 0.4))
