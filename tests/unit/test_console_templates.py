"""What the console's templates and scripts may hold: nothing that the policy refuses, nothing that trusts a text."""

import re

import jinja2
import pytest

from jobs_service.api.console.assets import STATIC
from jobs_service.api.console.formats import FILTERS

FOLDER = STATIC.parent / "templates"
TEMPLATES = sorted(FOLDER.glob("*.html"))
SCRIPTS = sorted(STATIC.glob("*.js"))

#: What would run, or style, in a page; what is loaded from elsewhere; and what takes a text for HTML.
REFUSED = (
    r"<style|\sstyle\s*=",
    r"<script(?![^>]*\ssrc=)",
    r"\son[a-z]+\s*=",
    r"javascript:",
    r"""(?:src|href|action|xlink:href)\s*=\s*["']?\s*(?:https?:)?//""",
    r"<(?:iframe|object|embed|base|form[^>]*\starget=)",
    r"\|\s*safe\b",
)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_holds_no_script_no_style_and_nothing_from_elsewhere(path):
    # Without comments, and what says only which parts there are.
    text = re.sub(r"\{#.*?#\}|\{%-? (?:set|if|for|macro|call)\b.*?%\}", "", path.read_text(), flags=re.DOTALL)

    assert [found for pattern in REFUSED for found in re.findall(pattern, text, re.IGNORECASE)] == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_attribute_with_a_value_has_quotes(path):
    """Escaping keeps a text within quotes, and would not without."""
    assert re.findall(r"[^;]\s[a-z-]+=\{\{", path.read_text()) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_template_is_right(path):
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True)
    environment.filters.update(FILTERS)

    environment.get_template(path.name)
    assert not re.search(r"autoescape|\|\s*safe\b|Markup", path.read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_takes_a_text_for_html_or_for_code(path):
    refused = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\(\s*[\"'`]"

    assert re.findall(refused, path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "<p onclick=x>",
        '<p style="x">',
        "<script>1</script>",
        '<a href="//evil.example">',
        "{{ x | safe }}",
        '<img src="http://evil.example">',
    ],
)
def test_what_is_refused_is_found(text):
    assert any(re.search(pattern, text, re.IGNORECASE) for pattern in REFUSED)
