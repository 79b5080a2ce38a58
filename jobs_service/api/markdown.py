"""Markdown pages as HTML."""

import re
from collections.abc import Iterable, Iterator
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

#: What a link may lead to. Links to files beside the page lead nowhere on a server: only their text is shown.
_SERVED = re.compile(r"#|https?://|mailto:")

#: The status with which each section of a page of errors begins.
_STATUS = re.compile(r"\*\*(\d{3})\.\*\*")


def to_html(text: str) -> str:
    """Return a page with a list of its sections after the introduction. The id of a section is its heading's text."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    first = next((index for index, token in enumerate(tokens) if _is_section(token)), len(tokens))
    sections = list(_sections(tokens))
    _link_headings(tokens)
    for token in tokens:
        if token.children:
            token.children = list(_without_dead_links(token.children))
    introduction = parser.renderer.render(tokens[:first], parser.options, {})
    rest = parser.renderer.render(tokens[first:], parser.options, {})
    return f"{introduction}{_contents(sections)}{rest}"


def _is_section(token: Token) -> bool:
    return token.type == "heading_open" and token.tag == "h2"


def _sections(tokens: list[Token]) -> Iterator[tuple[str, str]]:
    """Yield (heading, status) of each section; the status is "" if the section does not begin with one."""
    for index, token in enumerate(tokens):
        if _is_section(token):
            status = _STATUS.match(tokens[index + 4].content) if index + 4 < len(tokens) else None
            yield tokens[index + 1].content, status[1] if status else ""


def _link_headings(tokens: list[Token]) -> None:
    """Give each section's heading an id, and a link to itself."""
    for index, token in enumerate(tokens):
        if _is_section(token):
            heading = tokens[index + 1]
            token.attrSet("id", heading.content)
            opens = Token("link_open", "a", 1, attrs={"href": f"#{heading.content}"})
            heading.children = [opens, *(heading.children or ()), Token("link_close", "a", -1)]


def _without_dead_links(tokens: Iterable[Token]) -> Iterator[Token]:
    is_dead = False
    for token in tokens:
        if token.type == "link_open":
            is_dead = not _SERVED.match(str(token.attrGet("href")))
        if not (is_dead and token.type in ("link_open", "link_close")):
            yield token


def _contents(sections: Iterable[tuple[str, str]]) -> str:
    links = "".join(
        f'<a href="#{escape(name)}">{f"<span>{status}</span> " if status else ""}{escape(name)}</a>\n'
        for name, status in sections
    )
    return f"<nav>\n{links}</nav>\n"
