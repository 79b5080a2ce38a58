"""The job types, one file each. Importing this package registers all of them; adding a type is adding a file."""

import importlib
import pkgutil


def _import_every_module() -> None:
    """Import every module beside this one. A name that begins with `_` is no job type: it may hold what types share."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")


_import_every_module()
