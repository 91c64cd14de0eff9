"""The repository's shape: what may import what, and the standard library left alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each stage, and the stages it may import. mobilellama's own modules may be imported by all.
MAY_IMPORT: dict[str, set[str]] = {
    "shards": set(),
    "tokenize": {"shards"},
    "pretrain": {"shards"},
}


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_stage_folder_is_linked_and_has_no_init(stage: str) -> None:
    assert (ROOT / "mobilellama" / stage).resolve() == ROOT / stage
    assert not (ROOT / stage / "__init__.py").exists()


def test_tests_are_not_packages() -> None:
    """tests/tokenize/__init__.py alone makes pytest import it as the module ``tokenize``."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_stdlib_tokenize_survives_the_repository_root_on_sys_path() -> None:
    code = "import tokenize; print(tokenize.__file__); tokenize.generate_tokens"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not Path(out.stdout.strip()).is_relative_to(ROOT)


def imported_modules(path: Path) -> list[str]:
    """Return the dotted name of every module that the file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_stage_imports_only_stages_below_it(stage: str) -> None:
    for path in sorted((ROOT / stage).rglob("*.py")):
        for name in imported_modules(path):
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if package == "mobilellama" and target in MAY_IMPORT and target != stage:
                assert target in MAY_IMPORT[stage], f"{path}: {stage}/ may not import {target}/"
