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
    "sft": {"tokenize", "shards", "pretrain"},
    "vlm": {"tokenize", "shards", "pretrain", "sft"},
    "launch": set(),
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


def imported_names(source: str) -> list[str]:
    """Return the dotted name of everything that a module's source imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            # "from a import b" may import the module a.b.
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
    return names


def imported_stages(source: str) -> set[str]:
    """Return the stages that a module's source imports, in whatever form."""
    parts = [name.split(".") for name in imported_names(source)]
    return {part[1] for part in parts if part[0] == "mobilellama" and len(part) > 1} & {*MAY_IMPORT}


@pytest.mark.parametrize(
    ("source", "stages"),
    [
        ("import mobilellama.tokenize.run", {"tokenize"}),
        ("import mobilellama.tokenize as t, os", {"tokenize"}),
        ("from mobilellama.tokenize.run import main", {"tokenize"}),
        ("from mobilellama.tokenize import run", {"tokenize"}),
        ("from mobilellama import tokenize", {"tokenize"}),
        ("from mobilellama import log, shards as s, pretrain", {"shards", "pretrain"}),
        ("def f():\n    from mobilellama import tokenize", {"tokenize"}),
        ("import tokenize\nfrom mobilellama import log\nfrom mobilellama.config import x", set()),
    ],
)
def test_an_import_of_a_stage_is_seen_in_every_form(source: str, stages: set[str]) -> None:
    assert imported_stages(source) == stages


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_stage_imports_only_stages_below_it(stage: str) -> None:
    for path in sorted((ROOT / stage).rglob("*.py")):
        forbidden = imported_stages(path.read_text()) - MAY_IMPORT[stage] - {stage}
        assert not forbidden, f"{path}: {stage}/ may not import {', '.join(forbidden)}"


def test_what_stages_share_imports_no_stage() -> None:
    paths = sorted((ROOT / "mobilellama").glob("*.py"))
    assert len(paths) > 5
    for path in paths:
        assert not imported_stages(path.read_text()), f"{path} may not import a stage"
