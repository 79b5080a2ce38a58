"""Sends a small job through every queue regularly: it shows whether the queue works, also when it is not used."""

import http.client
import urllib.request
from collections.abc import Sequence

import msgspec
from structlog.stdlib import get_logger

from jobs_service.database.connection import Database
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.job_types import JobType
from jobs_service.jobs.lifecycle import Status
from jobs_service.maintenance.service import Service, Turn
from jobs_service.submission.submit import Submission, Submitter

log = get_logger(module=__name__)

#: Seconds to wait for the API. The leader's other services wait meanwhile.
API_SECONDS = 2.0

# Those of paused queues count as on their way: they would only wait.
# An index range for each type and status, whatever the statistics say: by an order that no other index has.
_ON_THEIR_WAY = """
SELECT DISTINCT kind
FROM unnest(%(types)s::text[]) AS kind
CROSS JOIN unnest(%(statuses)s::text[]) AS state
CROSS JOIN LATERAL (
  SELECT id FROM jobs WHERE type = kind AND status = state ORDER BY id DESC NULLS LAST LIMIT 1
) AS found
UNION
SELECT kind
FROM unnest(%(types)s::text[], %(queues)s::text[]) AS served (kind, queue) JOIN queue_pauses USING (queue)"""


class Canary(Service):
    """One canary for each queue at a time: while one is on its way, or the queue is paused, no second is sent.

    A canary that completes is deleted from the table; one that fails stays, a dead letter like any other.
    """

    name = "canary"

    def __init__(
        self,
        database: Database,
        submitter: Submitter,
        job_types: Sequence[JobType],
        *,
        interval_seconds: float,
        api_url: str,
        api_key: str = "",
    ) -> None:
        """Canaries are posted to the API at `api_url`, with the key; without a URL, they are submitted directly."""
        self.database = database
        self.submitter = submitter
        self.job_types = job_types
        self.interval_seconds = interval_seconds
        self.api_url = api_url.rstrip("/")
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def run_once(self, turn: Turn) -> dict[str, int]:  # noqa: ARG002 - one canary for each queue is one step
        on_their_way = self._on_their_way()
        return {"submitted": self._submit([each for each in self.job_types if each.name not in on_their_way])}

    def _on_their_way(self) -> set[str]:
        names = {
            "types": [job_type.name for job_type in self.job_types],
            "queues": [job_type.queue for job_type in self.job_types],
            "statuses": [Status.PENDING, Status.PROCESSING],
        }
        return {kind for (kind,) in self.database.rows(_ON_THEIR_WAY, names)}

    def _submit(self, job_types: Sequence[JobType]) -> int:
        for submitted, job_type in enumerate(job_types):
            if not self._is_submitted(job_type):
                # The API does not answer: the other canaries would wait for the same answer.
                return submitted
        return len(job_types)

    def _is_submitted(self, job_type: JobType) -> bool:
        if not self.api_url:
            self.submitter.submit_blocking(Submission(type=job_type.name, payload=msgspec.Raw(b"{}")), Origin())
            return True
        try:
            self._post(job_type)
        except (OSError, http.client.HTTPException) as error:
            # The metrics show it: the last success grows old.
            log.warning("The API did not accept a canary", type=job_type.name, error=type(error).__name__)
            return False
        return True

    def _post(self, job_type: JobType) -> None:
        body = msgspec.json.encode({"type": job_type.name, "payload": {}})
        request = urllib.request.Request(f"{self.api_url}/jobs", body, self.headers)  # noqa: S310 - the settings allow http and https only
        with urllib.request.urlopen(request, timeout=API_SECONDS):  # noqa: S310 - as above
            pass
