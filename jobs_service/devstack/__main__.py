"""`python -m jobs_service.devstack`, which is `make run`."""

import sys

from jobs_service.devstack.stack import main
from jobs_service.errors import SettingsError

try:
    sys.exit(main())
except SettingsError as error:
    sys.exit(str(error))
