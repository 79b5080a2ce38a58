"""docs/job-types.md: its example works as printed, and its lists are those of the code."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from actors import _attachments, generate_csv, send_email
from jobs_service.jobs.job_types import JobType, registry
from jobs_service.mail.addresses import MAX_ADDRESS_BYTES, MAX_LOCAL_BYTES
from jobs_service.worker.actors import MAX_RESULT_BYTES

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "job-types.md").read_text(encoding="utf-8")

#: Each file of the example: its name in backquotes, a colon, and its text.
FILES = dict(re.findall(r"`((?:actors|tests)/\S+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def project(tmp_path):
    """Make a copy of the project to which the files of the example are added."""
    (tmp_path / "jobs_service").symlink_to(PROJECT / "jobs_service")
    shutil.copytree(PROJECT / "actors", tmp_path / "actors")
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_a_type_and_its_test():
    assert ["actors/count_words.py", "tests/unit/test_count_words.py"] == list(FILES)


def test_the_examples_test_passes(project):
    assert "3 passed" in run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


def test_adding_the_file_is_enough(project):
    listed = run(
        project,
        "-c",
        "import actors; from jobs_service.jobs.job_types import registry; print(*(each.name for each in registry))",
    )

    assert {"word-count", "csv-generation", "EMAIL_SEND"} == set(listed.split())


def test_every_option_is_documented():
    options = {
        field for field in JobType.__dataclass_fields__ if field not in {"name", "payload", "function", "is_canary"}
    }

    assert options == set(
        re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", section("What the parts promise"), re.MULTILINE)
    )


def test_every_built_in_type_is_documented():
    assert {job_type.name for job_type in registry if not job_type.is_canary} == set(
        re.findall(r"^## `(\S+)`$", PAGE, re.MULTILINE)
    )


def test_every_field_of_an_attachment_and_of_a_table_is_documented():
    in_tables = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)

    fields = [*msgspec.structs.fields(_attachments.Attachment), *msgspec.structs.fields(generate_csv.Table)]
    assert {field.name for field in fields} - {"rows"} <= set(in_tables)


def test_every_field_of_a_mail_is_documented():
    documented = re.findall(r"^\| (`.+`) \| (?:required|optional) \|", section("`EMAIL_SEND`"), re.MULTILINE)

    assert [field.name for field in msgspec.structs.fields(send_email.Mail)] == re.findall(
        r"`(\w+)`", " ".join(documented)
    )


@pytest.mark.parametrize(
    ("title", "limit"),
    [
        ("What the parts promise", MAX_RESULT_BYTES),
        ("`csv-generation`", generate_csv.MAX_CELLS),
        ("`EMAIL_SEND`", send_email.MAX_LISTED),
        ("`EMAIL_SEND`", send_email.MAX_RECIPIENTS),
        ("`EMAIL_SEND`", send_email.MAX_SUBJECT_CHARACTERS),
        ("`EMAIL_SEND`", send_email.MAX_TEXT_CHARACTERS),
        ("`EMAIL_SEND`", send_email.MAX_HEADERS),
        ("`EMAIL_SEND`", send_email.MAX_UNSUBSCRIBE_URIS),
        ("`EMAIL_SEND`", _attachments.MAX_ATTACHMENTS),
        ("`EMAIL_SEND`", _attachments.MAX_ATTACHED_BYTES),
        ("`EMAIL_SEND`", _attachments.MAX_FILENAME_CHARACTERS),
        ("`EMAIL_SEND`", MAX_LOCAL_BYTES),
        ("`EMAIL_SEND`", MAX_ADDRESS_BYTES),
    ],
)
def test_every_limit_is_documented(title, limit):
    assert re.search(rf"\b{limit:,}\b", section(title))


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
