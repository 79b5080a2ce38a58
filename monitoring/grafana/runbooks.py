"""The dashboard "Jobs: runbooks": the pages of docs/runbooks/."""

import re
from collections.abc import Iterator
from pathlib import Path

from pages import Row, dashboard, datasource_variable
from panels import Json, Panel, text

#: The console's address in the pages, as the local stack has it.
CONSOLE = "http://localhost:3000/console"

FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"


def build() -> Json:
    return dashboard(
        uid="jobs-runbooks",
        title="Jobs: runbooks",
        description="For each alert: what it means, how to diagnose and fix it. The pages of docs/runbooks/.",
        variables=[datasource_variable()],
        rows=list(_pages()),
    )


def _pages() -> Iterator[Row]:
    for path in sorted(FOLDER.glob("*.md")):
        beginning, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        title = beginning.splitlines()[0].removeprefix("# ").removeprefix("Runbook: ")
        yield Row(title[0].upper() + title[1:], [_section(section) for section in sections], collapsed=True)


def _section(section: str) -> Panel:
    title, _, content = section.partition("\n")
    return text(title, _without_links(content.strip()))


def _without_links(markdown: str) -> str:
    """Return the text with links to other pages replaced by their names, since a dashboard has no such files.

    Links to the console lead to where it is.
    """
    linked = markdown.replace(CONSOLE, "${console:raw}")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|\$)[^)]*\)", r"**\1**", linked)
