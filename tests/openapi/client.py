"""Submits a job, waits for its end and reads its output, with what openapi-python-client makes from the document.

Arguments: the address of the API, and the routes it has as JSON: the module that downloads outputs, and whether `wait`
can be asked for.
"""

import json
import sys
from importlib import import_module

from jobs_client import Client
from jobs_client.api.jobs import get_job, submit_job
from jobs_client.models import CsvGenerationSubmission, Status, Table, TableRowsItem

ENDED = {Status.COMPLETED, Status.FAILED, Status.CANCELLED}

client = Client(base_url=sys.argv[1])
routes = json.loads(sys.argv[2])


def submission(**wishes):
    row = TableRowsItem.from_dict({"name": "Alice", "score": 95})
    return CsvGenerationSubmission(type_="csv-generation", payload=Table(rows=[row], delimiter=";"), **wishes)


submitted = submit_job.sync(client=client, body=submission())
waiting = {"wait": 10} if routes["wait"] else {}
job = get_job.sync(submitted.job_id, client=client, **waiting)
while job.status not in ENDED:
    job = get_job.sync(submitted.job_id, client=client, **waiting)

output = None
if routes["output"]:
    download = import_module(f"jobs_client.api.{routes['output']}")
    output = download.sync_detailed(submitted.job_id, client=client).content.decode()

refused = submit_job.sync(client=client, body=submission(priority=10))
print(json.dumps({"job": job.to_dict(), "output": output, "refused": refused.code}))
