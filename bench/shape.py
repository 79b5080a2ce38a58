"""The shape of the code in figures: what files import of their own, folders, functions, files, classes, duplicates.

    make shape                      # of this tree
    make shape BEFORE=/tmp/before   # beside another one
    python -m bench.shape --help

docs/decisions/0022-a-folder-is-a-subject.md says what each figure counts.
"""

import argparse
import ast
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from bench.rounds import percentile

ROOT = Path(__file__).resolve().parents[1]

#: A class with more lines than this is counted.
LONG_CLASS = 150

#: So many equal statements in a row, or more, are a duplicate.
WINDOW = 4

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Place:
    """A class or function, and the lines it has with its docstring and without its decorators."""

    path: PurePosixPath
    name: str
    lines: int

    def __str__(self) -> str:
        return f"{self.path} {self.name} ({self.lines})"


class Module:
    """One file."""

    def __init__(self, path: PurePosixPath, text: str) -> None:
        """`path` is relative to the tree."""
        self.path = path
        self.lines = len(text.splitlines())
        self.tree = ast.parse(text)
        parts = path.with_suffix("").parts
        self.package = ".".join(parts[:-1])
        self.name = self.package if parts[-1] == "__init__" else ".".join(parts)

    @property
    def is_empty(self) -> bool:
        """Whether it has no statement, as an `__init__.py` that only says what the folder is."""
        return len(self.tree.body) == (ast.get_docstring(self.tree) is not None)

    def imports(self) -> Iterator[list[str]]:
        """Yield the full names that each of its import statements has: at its top, inside of functions, for types."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                yield [f"{origin}.{alias.name}" for alias in node.names]

    def functions(self) -> list[Place]:
        return [self._place(node) for node in ast.walk(self.tree) if isinstance(node, Function)]

    def classes(self) -> list[Place]:
        return [self._place(node) for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    def bodies(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each function that is in no other, and its lines without comments, docstring and layout."""
        for function in _outermost(self.tree):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            lines = [line.strip() for statement in body for line in ast.unparse(statement).splitlines()]
            yield f"{self.path}:{function.lineno} {function.name}", lines

    def _place(self, node: Function | ast.ClassDef) -> Place:
        return Place(self.path, node.name, (node.end_lineno or node.lineno) - node.lineno + 1)

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])


class Tree:
    """The modules of some packages below one folder."""

    def __init__(self, root: Path, packages: Iterable[str]) -> None:
        paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
        modules = [Module(PurePosixPath(path.relative_to(root).as_posix()), path.read_text()) for path in paths]
        self.modules = [module for module in modules if not module.is_empty]
        if not self.modules:
            raise SystemExit(f"{root} has no modules of {', '.join(packages)}: name the folder that holds the packages")
        #: Module -> the folder it is in, as a package.
        self._folders = {module.name: module.package for module in modules}

    def own_imports(self, module: Module) -> set[str]:
        """Return the modules of these packages that a module imports."""
        return {found for names in module.imports() for name in names if (found := self._module_of(name))}

    def own_import_statements(self, module: Module) -> int:
        return sum(any(map(self._module_of, names)) for names in module.imports())

    def own_folders(self, module: Module) -> set[str]:
        """Return the folders in which those modules are, its own included."""
        return {self._folders[name] for name in self.own_imports(module)}

    @cached_property
    def functions(self) -> list[Place]:
        return [place for module in self.modules for place in module.functions()]

    @cached_property
    def long_classes(self) -> list[Place]:
        return [place for module in self.modules for place in module.classes() if place.lines > LONG_CLASS]

    @cached_property
    def folders(self) -> Counter[PurePosixPath]:
        """Return how many modules each folder has itself."""
        return Counter(module.path.parent for module in self.modules)

    @cached_property
    def duplicates(self) -> dict[str, int]:
        """Return how many lines each function has that are part of a block which is there at least twice."""
        starts = defaultdict(list)
        for name, body in ((name, body) for module in self.modules for name, body in module.bodies()):
            for start in range(len(body) - WINDOW + 1):
                starts[tuple(body[start : start + WINDOW])].append((name, start))
        repeated = [place for places in starts.values() if len(places) > 1 for place in places]
        lines = dict.fromkeys((name, start + n) for name, start in repeated for n in range(WINDOW))
        return Counter(name for name, _ in lines)

    def _module_of(self, name: str) -> str | None:
        """Return the module that a name is or is in, None for what is no module of these packages."""
        above = name.rpartition(".")[0]
        return next((module for module in (name, above) if module in self._folders), None)


def _outermost(node: ast.AST) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        else:
            yield from _outermost(child)


def figures(tree: Tree) -> dict[str, str]:
    """Return label -> figure, in the order in which they are printed."""
    statements = [tree.own_import_statements(module) for module in tree.modules]
    modules = [len(tree.own_imports(module)) for module in tree.modules]
    folders = [len(tree.own_folders(module)) for module in tree.modules]
    functions = [place.lines for place in tree.functions]
    files = [module.lines for module in tree.modules]
    sizes = tree.folders.values()
    return {
        "modules": str(len(tree.modules)),
        "own import statements per file, mean / most": f"{statistics.mean(statements):.1f} / {max(statements)}",
        "own modules imported per file, mean / most": f"{statistics.mean(modules):.1f} / {max(modules)}",
        "own folders imported per file, mean / most": f"{statistics.mean(folders):.1f} / {max(folders)}",
        "modules per folder, mean / most": f"{statistics.mean(sizes):.1f} / {max(sizes)}",
        "function lines, median / p90 / p99 / longest": _spread(functions, 50, 90, 99),
        "file lines, median / p90 / longest": _spread(files, 50, 90),
        f"classes over {LONG_CLASS} lines": str(len(tree.long_classes)),
        f"lines in duplicated blocks of {WINDOW} statements or more": str(sum(tree.duplicates.values())),
    }


def extremes(tree: Tree) -> list[str]:
    """Return a line for each kind of place that a figure's end comes from."""
    importing = max(tree.modules, key=lambda module: len(tree.own_imports(module)))
    fullest, count = tree.folders.most_common(1)[0]
    longest = max(tree.modules, key=lambda module: module.lines)
    return [
        f"imports the most own modules: {importing.path} ({len(tree.own_imports(importing))})",
        f"has the most modules: {fullest} ({count})",
        f"longest function: {max(tree.functions, key=lambda place: place.lines)}",
        f"longest file: {longest.path} ({longest.lines})",
        *(f"class over {LONG_CLASS} lines: {place}" for place in tree.long_classes),
        *(f"duplicated lines: {place} ({lines})" for place, lines in tree.duplicates.items()),
    ]


def _spread(values: Sequence[int], *percents: float) -> str:
    return " / ".join(f"{value:.0f}" for value in [*(percentile(values, percent) for percent in percents), max(values)])


def table(columns: dict[str, dict[str, str]]) -> list[str]:
    """Return the lines of a Markdown table with a column for each tree."""
    labels = next(iter(columns.values()))
    rows = [["", *columns], *([label, *(column[label] for column in columns.values())] for label in labels)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.shape", description="Print the shape of the code in figures."
    )
    parser.add_argument("trees", nargs="*", type=Path, default=[ROOT], help="folders to compare (default: this tree)")
    parser.add_argument(
        "--packages", default="jobs_service,devstack", help="which of their folders (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    trees = {str(root): Tree(root, options.packages.split(",")) for root in options.trees}
    lines = table({name: figures(tree) for name, tree in trees.items()})
    for name, tree in trees.items():
        lines += ["", name, *extremes(tree)]
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
