"""The files behind /docs are those that were reviewed, and a page of errors has all that it needs."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from jobs_service.api.markdown import to_html
from jobs_service.api.problem_types import PROBLEM_TYPES
from jobs_service.api.resources.docs import ERRORS, FILES, POLICY, STATIC, ErrorsPage

ROOT = Path(__file__).parents[2]
VENDORED = STATIC / "swagger-ui"
SOURCE = json.loads((VENDORED / "source.json").read_text())


def test_the_vendored_files_are_those_of_the_release():
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDORED.iterdir()}

    assert found.pop("source.json")
    assert SOURCE["sha256"] == found
    assert "LICENSE" in found


def test_the_release_is_recorded_in_the_decision():
    [decision] = (ROOT / "docs" / "decisions").glob("0037-*.md")

    assert f"{SOURCE['package']} {SOURCE['version']}" in decision.read_text()


def test_pages_hold_no_script_or_style_of_their_own_and_load_nothing_from_elsewhere():
    for path in STATIC.glob("*.html"):
        page = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:|//", page), path.name
        loaded = {Path(name).name for name in re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page)}
        assert loaded
        assert loaded <= set(FILES)


@pytest.mark.parametrize("word", ["unsafe-inline", "unsafe-eval", "http", "*"])
def test_the_policy_permits_nothing_unsafe(word):
    assert word not in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_the_page_has_a_section_for_every_code():
    page = ErrorsPage().content.decode()

    for code, kind in PROBLEM_TYPES.items():
        assert f'<h2 id="{code}">' in page
        assert f'<a href="#{code}"><span>{kind.status.value}</span> {code}</a>' in page


def test_the_image_has_the_page():
    assert ERRORS == ROOT / "docs" / "errors.md"
    assert "COPY docs/errors.md ./docs/errors.md\n" in (ROOT / "Dockerfile").read_text()
    assert "!docs/errors.md\n" in (ROOT / ".dockerignore").read_text()


def test_markdown_is_shown_without_foreign_html_and_without_links_that_lead_nowhere():
    html = to_html("# A\n\n<script>1</script>\n\n## b_c\n\n**400.** [api](api.md), [up](#b_c), `x<y`\n")

    assert "<script>" not in html
    assert '<h2 id="b_c"><a href="#b_c">b_c</a></h2>' in html
    assert '<strong>400.</strong> api, <a href="#b_c">up</a>, <code>x&lt;y</code>' in html
