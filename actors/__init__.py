"""The job types, one file each. Importing this package registers all of them. To add a type, add a file."""

import importlib
import pkgutil


def _import_every_module() -> None:
    """Import every module of this package, except those whose names begin with `_`, which job types may share."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")


_import_every_module()
