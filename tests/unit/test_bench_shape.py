"""The shape of the code in figures, counted on trees small enough to count by hand."""

import pytest

from bench.shape import Tree, extremes, figures, main

STEPS = "    {} = open(path)\n    read(one)\n    write(two)\n    close(three)\n"

APP = '''"""Starts it."""
import json
from typing import TYPE_CHECKING

from shop import orders, returns, settings
from shop.orders import Order, billing
from . import settings as the_same

if TYPE_CHECKING:
    from shop.orders.billing import Bill


def run(path):
    """Run it.

    Until the end.
    """
    # Not a statement.
    def inner():
        return 1
    from shop.orders import billing as later
'''

ORDERS = "class Order:\n    size = 1\n" + "    # and so on\n" * 149 + "    last = 2\n"

BILLING = f"""from ..settings import LIMIT


class Bill:
    async def send(self, path):
{STEPS.format("one").replace("    ", "        ")}


def send(path):
{STEPS.format("one")}    done()


def send_otherwise(path):
{STEPS.format("another")}"""


@pytest.fixture
def root(tmp_path):
    files = {
        "shop/__init__.py": '"""A shop: nothing but a docstring."""\n',
        "shop/app.py": APP,
        "shop/settings.py": "LIMIT = 1\n",
        "shop/orders/__init__.py": ORDERS,
        "shop/orders/billing.py": BILLING,
        "shop/returns/__init__.py": "",
        "elsewhere/tests.py": "import shop\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_figure_is_what_one_counts_by_hand(root):
    assert {
        "modules": "4",
        # Of the app, five; of billing, one.
        "own import statements per file, mean / most": "1.5 / 5",
        # The app: orders, returns, settings and billing; billing: settings.
        "own modules imported per file, mean / most": "1.2 / 4",
        # The app: shop, its orders and its returns; billing: shop.
        "own folders imported per file, mean / most": "1.0 / 3",
        "modules per folder, mean / most": "2.0 / 2",
        "function lines, median / p90 / p99 / longest": "5 / 9 / 9 / 9",
        "file lines, median / p90 / longest": "21 / 152 / 152",
        "classes over 150 lines": "1",
        # The method and the function; the third function has another name at its start.
        "lines in duplicated blocks of 4 statements or more": "8",
    } == figures(Tree(root, ["shop"]))


def test_the_extremes_are_named(root):
    assert [
        "imports the most own modules: shop/app.py (4)",
        "has the most modules: shop (2)",
        "longest function: shop/app.py run (9)",
        "longest file: shop/orders/__init__.py (152)",
        "class over 150 lines: shop/orders/__init__.py Order (152)",
        "duplicated lines: shop/orders/billing.py:5 send (4)",
        "duplicated lines: shop/orders/billing.py:13 send (4)",
    ] == extremes(Tree(root, ["shop"]))


def test_two_trees_stand_side_by_side(root, capsys):
    (root / "after" / "shop").mkdir(parents=True)
    (root / "after" / "shop" / "app.py").write_text("import shop.app\n\n\ndef run():\n    pass\n")

    main([str(root), str(root / "after"), "--packages", "shop,gone"])

    lines = capsys.readouterr().out.splitlines()
    header, _, first = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:3])
    assert ["", str(root), str(root / "after")] == header
    assert ["modules", "4", "1"] == first
    assert {len(line) for line in lines[:11]} == {len(lines[0])}
    assert str(root / "after") in lines[12:]


def test_a_tree_without_these_packages_is_refused(root):
    with pytest.raises(SystemExit, match="has no modules of gone: name the folder that holds the packages"):
        main([str(root), "--packages", "gone"])


def test_this_tree_has_figures(capsys):
    main([])

    assert "own modules imported per file" in capsys.readouterr().out
