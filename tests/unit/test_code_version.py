"""The version of the code differs wherever the code does."""

import sys

import pytest

import jobs_service
from jobs_service.code_version import code_version


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of job types, as ACTOR_MODULES names them."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_module_of_types.py").write_text("x = 1\n")
    (tmp_path / "a_package_of_types").mkdir()
    (tmp_path / "a_package_of_types" / "__init__.py").touch()
    (tmp_path / "a_package_of_types" / "reports.py").write_text("x = 1\n")
    __import__("a_module_of_types"), __import__("a_package_of_types.reports")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("a_module_of", "a_package_of"))]:
        del sys.modules[name]


NAMES = ["a_module_of_types", "a_package_of_types.reports"]


def test_it_is_that_of_the_service_and_a_digest():
    version, _, digest = code_version([]).partition("+")

    assert jobs_service.__version__ == version
    assert 8 == len(digest)


@pytest.mark.parametrize(
    "changed", ["a_module_of_types.py", "a_package_of_types/reports.py", "a_package_of_types/b.py"]
)
def test_another_file_is_another_version(module, changed):
    before = code_version(NAMES)
    assert before == code_version(reversed(NAMES))

    (module / changed).write_text("x = 2\n")

    assert before != code_version(NAMES)


def test_the_file_of_another_module_does_not_matter(module):
    before = code_version(NAMES)

    (module / "elsewhere.py").write_text("x = 2\n")

    assert before == code_version(NAMES)
