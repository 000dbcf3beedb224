"""Prints size statistics of Python packages: `python scripts/code_stats.py roadwork [FOLDER ...]`.

Blank lines count as lines. Import and docstring lines are counted from the syntax tree.
"""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

HEADER = ("folder", "modules", "lines", "median", "mean", "< 50 lines", "imports", "docstrings", "one importer")


def length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def docstring_lines(tree: ast.Module) -> int:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with_text = (n for n in ast.walk(tree) if isinstance(n, owners) and ast.get_docstring(n, clean=False) is not None)
    return sum(length(node.body[0]) for node in with_text)


def imported(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Returns the full names of all modules and objects that `module` imports, at any level of the code."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def measure(folder: Path) -> tuple[str, ...]:
    files = {f: f.relative_to(folder.parent).with_suffix("").parts for f in sorted(folder.rglob("*.py"))}
    modules = {".".join(p[:-1] if p[-1] == "__init__" else p): f for f, p in files.items()}
    texts = {module: file.read_text(encoding="utf-8") for module, file in modules.items()}
    trees = {module: ast.parse(text) for module, text in texts.items()}
    sizes = [len(text.splitlines()) for text in texts.values()]
    nodes = [
        node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    uses = {module: imported(tree, module, modules[module].name == "__init__.py") for module, tree in trees.items()}
    importers = {m: sum(m in names for other, names in uses.items() if other != m) for m in modules}
    imports, docstrings, total = sum(map(length, nodes)), sum(map(docstring_lines, trees.values())), sum(sizes)
    figures = (f"{total:,}", f"{statistics.median(sizes):.0f}", f"{total / len(sizes):.0f}", sum(s < 50 for s in sizes))
    shares = (f"{imports / total:.1%}", f"{docstrings / total:.1%}", list(importers.values()).count(1))
    return tuple(map(str, (folder.name, len(sizes), *figures, *shares)))


if __name__ == "__main__":
    rows = [HEADER, *(measure(Path(name).resolve()) for name in sys.argv[1:] or ["roadwork"])]
    for row in rows:
        print(" | ".join(cell.rjust(max(len(r[i]) for r in rows)) for i, cell in enumerate(row)))
