"""Count what makes code easy or hard to read, so that a change of style is a change of a number.

    python benchmarks/house_style.py [FOLDER ...] [--output benchmarks/results/house_style.json]

Without a folder: the project's own code. With folders: other checkouts, one column each, for which
every ``.py`` file counts that is not a test's. Nothing is imported or run; files are parsed.
"""

import argparse
import ast
import io
import json
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import house_paths
import paired

ROOT = Path(__file__).parents[1]
OURS = ("mobilellama", "tokenize", "shards", "pretrain", "sft", "vlm", "launch")
LONG_LINES = (40, 60)
_SKIPPED = {".git", ".venv", "node_modules", "build", "dist", "__pycache__", "third_party"}


@dataclass
class Count:
    """What was counted in some files."""

    files_of_folder: dict[Path, int] = field(default_factory=dict)
    lines_of_file: list[int] = field(default_factory=list)
    lines_of_function: list[int] = field(default_factory=list)
    code_lines: int = 0
    """Lines that are not blank."""
    docstring_lines: int = 0
    comment_lines: int = 0
    """Lines that hold a comment alone."""
    lines_with_a_comment: int = 0
    """Lines of code that end with a comment."""
    public_functions: int = 0
    documented: int = 0
    arguments: int = 0
    typed: int = 0
    any_names: int = 0
    """Uses of the type Any."""
    any_mappings: int = 0
    """Types dict[str, Any] and Mapping[str, Any]."""
    class_names: list[str] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Count one file."""
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return
        self.files_of_folder[path.parent] = self.files_of_folder.get(path.parent, 0) + 1
        lines = text.splitlines()
        self.lines_of_file.append(len(lines))
        self.code_lines += sum(1 for line in lines if line.strip())
        alone, behind = comment_lines(text)
        self.comment_lines += alone
        self.lines_with_a_comment += behind
        for node in ast.walk(tree):
            self._add_node(node)

    def _add_node(self, node: ast.AST) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None:
                first = node.body[0]
                self.docstring_lines += (first.end_lineno or first.lineno) - first.lineno + 1
        if isinstance(node, ast.ClassDef):
            self.class_names.append(node.name)
            self.docstring_lines += field_docstring_lines(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self._add_function(node)
        elif isinstance(node, ast.Name) and node.id == "Any":
            self.any_names += 1
        elif isinstance(node, ast.Subscript):
            named = ast.unparse(node.value).rpartition(".")[2]
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if named in ("dict", "Mapping", "Dict") and ast.unparse(inner[-1]) == "Any":
                self.any_mappings += 1

    def _add_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.lines_of_function.append((node.end_lineno or node.lineno) - node.lineno + 1)
        if not node.name.startswith("_"):
            self.public_functions += 1
            self.documented += ast.get_docstring(node) is not None
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        given = [argument for argument in given if argument.arg not in ("self", "cls")]
        self.arguments += len(given)
        self.typed += sum(1 for argument in given if argument.annotation is not None)


def field_docstring_lines(node: ast.ClassDef) -> int:
    """Return the lines of the texts below a class's fields, its own docstring left out."""
    texts = [
        part for part in node.body[1:]
        if isinstance(part, ast.Expr)
        and isinstance(part.value, ast.Constant)
        and isinstance(part.value.value, str)
    ]  # fmt: skip
    return sum((part.end_lineno or part.lineno) - part.lineno + 1 for part in texts)


def comment_lines(text: str) -> tuple[int, int]:
    """Return the number of lines that hold a comment alone, and of those that end with one."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, IndentationError):
        return 0, 0
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    alone = sum(1 for token in comments if not token.line[: token.start[1]].strip())
    return alone, len(comments) - alone


def code_files(root: Path) -> Iterator[Path]:
    """Yield the Python files of a checkout that are not a test's; links are not followed."""
    folders = [root / name for name in OURS] if root == ROOT else [root]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(root).parts
            if not _SKIPPED & {*parts} and not is_test(parts) and not _behind_a_link(path, root):
                yield path


def is_test(parts: tuple[str, ...]) -> bool:
    """Return whether a path is a test's: its folder or its name says so."""
    return bool({"test", "tests"} & {*parts[:-1]}) or parts[-1].startswith("test_")


def _behind_a_link(path: Path, root: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(root))


def without_a_test(root: Path) -> tuple[int, int]:
    """Return how many modules of logic have no test file of their name, and how many there are.

    Here a function or a method makes a module of logic. tests/test_layout.py, which must pass,
    asks for less: it leaves out modules whose functions only name a value or hand arguments on.
    """
    tests = {path.name for path in (root / "tests").rglob("test_*.py")}
    modules = [path for path in code_files(root) if _has_logic(path)]
    missing = [path for path in modules if f"test_{path.name}" not in tests]
    return len(missing), len(modules)


def _has_logic(path: Path) -> bool:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return any(isinstance(node, functions) for node in ast.walk(ast.parse(path.read_text())))


def percent(part: int, whole: int) -> str:
    """Return a share as text."""
    return f"{100 * part / whole:.1f}" if whole else "-"


def rows(root: Path) -> dict[str, str]:
    """Return one checkout's column: what was counted -> the figure."""
    count, tests = Count(), Count()
    for path in code_files(root):
        count.add(path)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if is_test(parts) and not _SKIPPED & {*parts} and not _behind_a_link(path, root):
            tests.add(path)
    functions = count.lines_of_function or [0]
    over = [sum(1 for lines in functions if lines > limit) for limit in LONG_LINES]
    names = count.class_names
    twice = {name for name in names if names.count(name) > 1} - {"Config", "Key"}
    column = {
        "modules": str(len(count.lines_of_file)),
        "files in the largest flat folder": str(max(count.files_of_folder.values(), default=0)),
        "lines of a file: median / most":
            f"{statistics.median(count.lines_of_file or [0]):.0f} / "
            f"{max(count.lines_of_file, default=0)}",
        "functions over 40 / over 60 lines / longest": f"{over[0]} / {over[1]} / {max(functions)}",
        "docstring / comment lines / lines that end with a comment, %":
            f"{percent(count.docstring_lines, count.code_lines)} / "
            f"{percent(count.comment_lines, count.code_lines)} / "
            f"{percent(count.lines_with_a_comment, count.code_lines)}",
        "public functions documented / arguments typed, %":
            f"{percent(count.documented, count.public_functions)} / "
            f"{percent(count.typed, count.arguments)}",
        "tests / code, lines": f"{tests.code_lines / max(1, count.code_lines):.2f}",
        "Any / mappings to Any": f"{count.any_names} / {count.any_mappings}",
        "class names that two classes share": str(len(twice)),
    }  # fmt: skip
    if root == ROOT:
        missing, modules = without_a_test(root)
        column["with a function, without a test of their name"] = f"{missing} of {modules} modules"
        column |= house_paths.rows(root)
    return column


def main() -> None:
    """Print the table, as Markdown; write it where ``--output`` says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="other checkouts to count")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file too")
    options = parser.parse_args()
    roots = [ROOT, *options.folders]
    columns = {"ours" if root == ROOT else root.name: rows(root) for root in roots}
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in columns["ours"]:
        print(
            f"| {name} | " + " | ".join(column.get(name, "") for column in columns.values()) + " |"
        )
    if options.output:
        value = {"commit": paired.environment()["commit"], "columns": columns}
        options.output.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
