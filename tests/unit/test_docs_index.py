"""docs/README.md leads to every page."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
INDEX = (DOCS / "README.md").read_text()


def test_the_index_has_every_page():
    linked = set(re.findall(r"\]\(([\w-]+\.md|\w+/)", INDEX))
    pages = {path.name for path in DOCS.glob("*.md")} | {
        f"{path.name}/" for path in DOCS.iterdir() if any(path.glob("*.md"))
    }

    assert pages - {"README.md"} == linked
