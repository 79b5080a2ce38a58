"""docs/architecture.md and the code say the same, and imports point one way."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import peewee
import pytest

from jobs_service.jobs.lifecycle import TRANSITIONS, EndReason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MODULES = sorted((ROOT / "jobs_service").rglob("*.py"))

#: What lies directly in the package and imports next to nothing, and what begins a process; folders are between them.
BASE = [
    "errors",
    "events",
    "ids",
    "failpoints",
    "orphans",
    "descriptors",
    "circuit_breaker",
    "code_version",
    "dsn",
    "output_url",
    "config",
]
ENTRY_POINTS = ["asgi", "__main__", "__init__"]

#: A row of the page's map: a folder or nothing, modules, what they are.
_ROW = re.compile(r"^\| ?(`jobs_service/`|`[\w/]+/`|entry points|) \| (`[\w`, ]+`) \|", re.MULTILINE)


def test_the_diagram_draws_every_transition_and_no_other():
    drawn = set(re.findall(r"^  (\w+) --> (\w+|\[\*\]): (\w+)$", PAGE, re.MULTILINE))

    written = {
        (str(start), str(end), verb)
        for verb, (starts, ends) in TRANSITIONS.items()
        for start in starts
        for end in ends or ("[*]",)
    }
    assert written == drawn


def test_every_end_reasons_is_in_the_page():
    assert all(f"`{reason}`" in PAGE for reason in EndReason)


def test_the_page_maps_every_module():
    found = {_module(path) for path in MODULES if path.name != "__init__.py"}

    assert found == set(_map())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(_module(path)))
def test_imports_point_one_way(path):
    rank = _ranks()
    own = _rank_of(_module(path), rank)

    assert not [imported for imported in _imports(path) if _rank_of(imported, rank) > own]


def test_no_module_takes_part_in_a_cycle():
    graph = {_module(path): _imports(path) for path in MODULES}

    list(TopologicalSorter(graph).static_order())


def test_only_the_database_folder_imports_the_driver():
    outside = {_module(path): _drivers(path) for path in MODULES if _module(path)[0] != "database"}

    assert {module: drivers for module, drivers in outside.items() if drivers} == {
        ("dsn",): {"psycopg2", "psycopg2.extensions"},
        ("jobs", "queries"): {"peewee"},
    }


def test_queries_take_no_error_of_peewee():
    names = {name for name, value in vars(peewee).items() if isinstance(value, type) and issubclass(value, Exception)}
    path = ROOT / "jobs_service" / "jobs" / "queries.py"

    assert "import peewee" not in path.read_text()
    assert not [name for name in names if re.search(rf"\b{name}\b", path.read_text())]


def test_only_lifecycle_writes_a_status():
    writers = [
        path.name
        for path in (ROOT / "jobs_service").rglob("*.py")
        if re.search(r"SET\s+status|INSERT INTO jobs\b", path.read_text())
    ]

    assert ["lifecycle.py"] == writers


def test_job_types_import_nothing_that_knows_rows_or_queues():
    allowed = {("errors",), ("jobs", "job_types"), ("jobs", "validation"), ("outputs", "contract")}

    for path in (ROOT / "actors").glob("*.py"):
        assert {module for module in _imports(path) if module[0] != "mail"} <= allowed, path.name


def _module(path):
    return path.relative_to(ROOT / "jobs_service").with_suffix("").parts


def _map():
    """Return the modules that the page maps, in its order."""
    folder, found = (), []
    for named, modules in _ROW.findall(PAGE):
        if named in ("`jobs_service/`", "entry points"):
            folder = ()
        elif named:
            folder = tuple(named.strip("`/").split("/"))
        found += [(*folder, name) for name in re.findall(r"\w+", modules)]
    return found


def _ranks():
    """Return the order of folders and of what lies beside them: that of the page."""
    folders = list(dict.fromkeys(module[0] for module in _map() if len(module) > 1))
    return {name: rank for rank, name in enumerate([*BASE, *folders, *ENTRY_POINTS])}


def _rank_of(module, ranks):
    return ranks[module[0]]


def _imports(path):
    """Return the modules of jobs_service that a file imports, wherever in it, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jobs_service":
            found |= {_named((*node.module.split(".")[1:], alias.name)) for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {_named(tuple(parts[1:])) for parts in names if parts[0] == "jobs_service"}
    return found - {("__init__",)}


def _drivers(path):
    """Return the modules of psycopg2 and peewee that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in {"psycopg2", "peewee"}}


def _named(parts):
    """Return the module that holds what an import names: itself, or the one that it is taken from."""
    while parts and not (ROOT / "jobs_service").joinpath(*parts).with_suffix(".py").exists():
        parts = parts[:-1]
    return parts or ("__init__",)
