"""No job types: the first worker process that imports it dies at the worst moment, with DIED_BOOTING as its mark.

Dramatiq's command waits for its process to say that it has begun, through an event that both share. A process that is
killed while it says so takes the event's lock along.
"""

import multiprocessing
import os
import signal
from pathlib import Path

_process = multiprocessing.current_process()

if "DIED_BOOTING" in os.environ and multiprocessing.parent_process() and not Path(os.environ["DIED_BOOTING"]).exists():
    Path(os.environ["DIED_BOOTING"]).touch()
    _, _, _, _, begun = _process._args
    begun._cond.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
