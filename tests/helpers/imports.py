"""Which module of the repository imports which, and whether imports go round in a circle."""

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
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


REST = "*"
"""In a list of layers: the files of a stage's top level that no line names."""


def imports_within(folder: str) -> dict[Path, set[Path]]:
    """Return what each file of a folder at the root imports of that folder, paths within it."""
    paths = module_paths()
    inside = {name: path.relative_to(ROOT / folder) for name, path in paths.items()
              if path.is_relative_to(ROOT / folder)}  # fmt: skip
    return {
        path: {inside[other] for other in imported_modules(paths[name].read_text(), name, inside)}
        for name, path in inside.items()
    }


def upward_imports(
    imports: Mapping[Path, Collection[Path]], layers: Sequence[str]
) -> list[tuple[Path, Path]]:
    """Return the imports that lead to a higher layer, or to another room of the same.

    Args:
        imports: what each file imports; the first part of a path is a room, or a file's name.
        layers: names of rooms and files, the lowest layer first. Files of one layer may import
            each other.
    """
    layer_of = {name: i for i, layer in enumerate(layers) for name in layer.split()}

    def place(path: Path) -> tuple[int, str]:
        room = path.parts[0] if len(path.parts) > 1 else ""
        return layer_of.get(room or path.stem, layer_of[REST]), room

    return [
        (path, other)
        for path in sorted(imports)
        for other in sorted(imports[path])
        if place(path) != place(other) and place(path)[0] <= place(other)[0]
    ]
