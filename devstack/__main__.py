"""`python -m devstack`, which is `make run`."""

import sys

from devstack.stack import main
from jobs_service.errors import SettingsError

try:
    sys.exit(main())
except SettingsError as error:
    sys.exit(str(error))
