"""Which module of the repository imports which, and whether imports go round in a circle."""

import ast
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = ("shards", "tokenize", "pretrain", "sft", "vlm", "launch")
_OTHER_FOLDERS = ("mobilellama", "demo", "benchmarks", "tests")


def module_paths() -> dict[str, Path]:
    """Return the file of every module of the repository, by the name that it is imported by."""
    found: dict[str, Path] = {}
    for folder in (*_OTHER_FOLDERS, *STAGES):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[0] == "mobilellama" and parts[1] in STAGES:
                continue  # a link to a folder at the root
            name = ".".join(parts).removesuffix(".__init__")
            found[f"mobilellama.{name}" if folder in STAGES else name] = path
    return found


def imported_names(source: str, importer: str = "") -> Iterator[tuple[str, ...]]:
    """Yield, for each thing that a module's source imports, the names that it may have.

    "from a import b" may import the module a.b, or something that the module a defines.

    An import counts wherever it stands: at the top, in a function or a class, or where only a
    type checker looks. A string counts too, since the command line imports by such strings.

    Args:
        source: of the module.
        importer: the module's name, from which relative imports start.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = importer.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", base) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield (node.value,)


def imported_modules(source: str, importer: str, modules: Collection[str]) -> set[str]:
    """Return those of `modules` that a module's source imports, in whatever form.

    A module that names itself, to be started as a process, does not import itself.
    """
    found = (
        next((name for name in names if name in modules), None)
        for names in imported_names(source, importer)
    )
    return {name for name in found if name not in (None, importer)}


def find_circle(imports: Mapping[str, Collection[str]]) -> list[str] | None:
    """Return modules of which each is imported by the next, the first again last; None: none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None
