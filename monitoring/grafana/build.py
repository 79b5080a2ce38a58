"""Write the dashboards as the JSON that Grafana loads: `python monitoring/grafana/build.py [folder]`.

The JSON is committed; a test builds it again and compares.
"""

import json
import sys
from pathlib import Path

import api
import itself
import job_types
import overview
import queues
import runbooks
import slo
import storage
import workers
from panels import Json

DASHBOARDS = (
    overview.build,
    queues.build,
    job_types.build,
    workers.build,
    api.build,
    slo.build,
    storage.build,
    itself.build,
    runbooks.build,
)


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else Path(__file__).parent / "dashboards"
    for build in DASHBOARDS:
        write(build(), folder)
    return 0


def write(dashboard: Json, folder: Path) -> None:
    text = json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
    (folder / f"{dashboard['uid']}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
