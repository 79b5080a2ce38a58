"""Where the tests find Prometheus, promtool and the Alertmanager: named by a variable, or on PATH; skipped without.

`.ci/run` gets them, so that nothing is skipped there.
"""

import os
import shutil

import pytest

PROMTOOL = os.environ.get("TEST_PROMTOOL") or shutil.which("promtool")
PROMETHEUS = os.environ.get("TEST_PROMETHEUS") or shutil.which("prometheus")
#: Debian calls it by a longer name.
ALERTMANAGER = (
    os.environ.get("TEST_ALERTMANAGER") or shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
)
AMTOOL = os.environ.get("TEST_AMTOOL") or shutil.which("amtool")


def _needs(program: str | None, name: str) -> pytest.MarkDecorator:
    reason = f"{name} is neither on PATH nor named by TEST_{name.upper()}"
    return pytest.mark.skipif(program is None, reason=reason)


needs_promtool = _needs(PROMTOOL, "promtool")
needs_prometheus = _needs(PROMETHEUS, "prometheus")
needs_alertmanager = _needs(ALERTMANAGER, "alertmanager")
needs_amtool = _needs(AMTOOL, "amtool")
