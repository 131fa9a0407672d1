"""How the code is laid out, in figures: `make figures`, or `python benchmarks/structure.py [--all]`.

Exits with 1 where production code breaks a rule: a module over 450 lines, a function over 60, or two public classes
of one name. tests/unit/test_structure.py holds the same rules.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = ("one", "found", "what", "why", "other", "told", "asked", "wish", "shown")


@dataclass(frozen=True, slots=True)
class Sized:
    """Something that has a place and a length in lines, blank lines and comments included."""

    where: str
    lines: int


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its path below the repository, its lines, its syntax tree."""

    path: str
    lines: int
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def read_modules(*folders: str) -> list[Module]:
    """Return every Python module below the named folders of the repository, in order of their paths."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    texts = ((path, path.read_text(encoding="utf-8")) for path in paths)
    gc.disable()  # it would look through half a million nodes again and again: three quarters of the time
    try:
        return [
            Module(path.relative_to(ROOT).as_posix(), len(text.splitlines()), ast.parse(text)) for path, text in texts
        ]
    finally:
        gc.enable()


def functions(modules: Iterable[Module]) -> Iterator[Sized]:
    """Yield each function with its length from `def` to its last line, decorators left out."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield Sized(f"{module.path}:{node.lineno} {node.name}", length)


def long_modules(modules: Iterable[Module]) -> list[Sized]:
    """Return the modules over the limit, the longest first."""
    return _longest(Sized(module.path, module.lines) for module in modules if module.lines > MAX_MODULE_LINES)


def long_functions(modules: Iterable[Module]) -> list[Sized]:
    """Return the functions over the limit, the longest first."""
    return _longest(function for function in functions(modules) if function.lines > MAX_FUNCTION_LINES)


def shared_class_names(modules: Iterable[Module]) -> dict[str, list[str]]:
    """Return each name that public top-level classes of several modules share, with those modules."""
    paths = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                paths[node.name].append(module.path)
    return {name: where for name, where in sorted(paths.items()) if len(where) > 1}


def vague_names(module: Module) -> Counter[str]:
    """Count where a module binds a variable, parameter or field to a name that says nothing."""
    names: Counter[str] = Counter()
    for node in ast.walk(module.tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) if name in VAGUE_NAMES:
                names[name] += 1
    return names


def _longest(sized: Iterable[Sized]) -> list[Sized]:
    return sorted(sized, key=lambda each: (-each.lines, each.where))


def _package(module: Module) -> str:
    return "/".join(module.path.split("/")[:2]) if module.path.count("/") > 1 else module.folder


def _print_rows(title: str, rows: Iterable[tuple[int, str]]) -> None:
    print(f"\n{title}")
    for number, text in rows:
        print(f"{number:8,}  {text}")


def _print_vague_names(title: str, modules: list[Module], rows: int | None) -> None:
    by_module = {module.path: vague_names(module) for module in modules}
    total: Counter[str] = sum(by_module.values(), Counter())
    most = sorted(((names.total(), path) for path, names in by_module.items() if names), reverse=True)
    spread = ", ".join(f"{name} {number}" for name, number in total.most_common())
    _print_rows(f"Vague names in {title}: {total.total()} ({spread})", most[:rows])


def main(arguments: list[str]) -> int:
    """Print the figures, of every module with ``--all``; return the exit code."""
    rows = None if "--all" in arguments else 10
    production, tests = read_modules("reconciler"), read_modules("tests", "benchmarks")
    for title, modules in (("production", production), ("tests and benchmarks", tests)):
        lines = Counter[str]()
        for module in modules:
            lines[_package(module)] += module.lines
        _print_rows(f"Lines of {title}", [(lines.total(), "all"), *((lines[name], name) for name in sorted(lines))])
    folders = Counter(module.folder for module in production if not module.path.endswith("__init__.py"))
    _print_rows("Modules per folder", ((folders[name], name) for name in sorted(folders)))
    modules_by_size = _longest(Sized(module.path, module.lines) for module in production)
    _print_rows("Longest modules", ((each.lines, each.where) for each in modules_by_size[:rows]))
    _print_rows("Longest functions", ((each.lines, each.where) for each in _longest(functions(production))[:rows]))
    shared = shared_class_names(production)
    _print_rows(
        "Public classes that share a name",
        ((len(where), f"{name}: {', '.join(where)}") for name, where in shared.items()),
    )
    _print_vague_names("production", production, rows)
    _print_vague_names("tests and benchmarks", tests, rows)
    broken = [
        *(f"{each.where}: {each.lines} lines, at most {MAX_MODULE_LINES}" for each in long_modules(production)),
        *(f"{each.where}: {each.lines} lines, at most {MAX_FUNCTION_LINES}" for each in long_functions(production)),
        *(f"{name}: a class of that name in {' and '.join(where)}" for name, where in shared.items()),
    ]
    print("\n" + "\n".join(["Rules broken:", *broken] if broken else ["All rules hold."]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
