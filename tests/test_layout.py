"""The repository's shape: what may import what, and the standard library left alone."""

import ast
import configparser
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers.imports import (
    REST,
    ROOT,
    find_circle,
    imported_modules,
    imported_names,
    imports_within,
    module_paths,
    upward_imports,
)

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


# A room is a folder of one subject: with more files nobody finds one, with fewer it is a detour.
MOST_FILES, FEWEST_FILES = 20, 4


@pytest.mark.parametrize("stage", ["mobilellama", *MAY_IMPORT])
def test_no_folder_of_code_holds_too_many_files_or_too_few(stage: str) -> None:
    folders = [ROOT / stage, *(path for path in (ROOT / stage).iterdir() if path.is_dir())]
    for folder in folders:
        count = len(list(folder.glob("*.py")))
        if count and not folder.is_symlink():
            assert FEWEST_FILES <= count <= MOST_FILES, f"{folder} holds {count} modules"


def test_no_folder_of_tests_holds_too_many_files_or_too_few() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert len(folders) > 30
    for folder in folders:
        count = len(list(folder.glob("*.py")))
        assert FEWEST_FILES <= count <= MOST_FILES, f"{folder} holds {count} files"


def test_a_test_lies_where_its_module_does() -> None:
    """tests/vlm/data/test_order.py tests vlm/data/order.py, if there is a module of that name."""
    modules: dict[str, list[Path]] = {}
    for stage in ["mobilellama", *MAY_IMPORT]:
        for path in (ROOT / stage).rglob("*.py"):
            modules.setdefault(path.stem, []).append(path.parent.relative_to(ROOT))
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        places = [p for p in modules.get(path.stem[5:], []) if p.parts[:1] == folder.parts[:1]]
        assert not places or folder in places, f"{path}: its module lies in {places}"


_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_DECISIONS = (
    ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.Raise, ast.With, ast.Match,
    ast.comprehension,
)  # fmt: skip


def has_logic(source: str) -> bool:
    """Return whether a module computes something: whether it needs a test of its name.

    It does unless each of its functions and methods is, apart from a docstring, one statement
    without a condition, a loop, a raise or a with: it names a value, or hands its arguments on.
    Tables, constants, classes of fields and a stage's ``main`` are such.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _FUNCTIONS):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            inner = [part for statement in body for part in ast.walk(statement)]
            if len(body) > 1 or any(isinstance(part, _DECISIONS) for part in inner):
                return True
    return False


@pytest.mark.parametrize(
    ("source", "logic"),
    [
        ("TABLE = {'a': 1}", False),
        ("class C:\n    field: int = 1", False),
        ("def main(argv):\n    'Run.'\n    return run_stage(argv, VERBS)", False),
        ("class C:\n    def f(self):\n        require('a', self.a)", False),
        ("def f(a):\n    b = a + 1\n    return b", True),
        ("def f(a):\n    return a if a else 1", True),
        ("def f(a):\n    return [b for b in a]", True),
        ("class C:\n    def f(self):\n        raise ValueError", True),
        ("def f():\n    'Say.'\n    def g():\n        while True:\n            pass", True),
    ],
)
def test_what_counts_as_logic(source: str, logic: bool) -> None:
    assert has_logic(source) is logic


def test_each_module_of_logic_has_a_test_of_its_name() -> None:
    """tests/vlm/data/test_order.py tests vlm/data/order.py."""
    paths = {
        path.relative_to(ROOT)
        for stage in ["mobilellama", *MAY_IMPORT]
        for path in (ROOT / stage).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    wanted = [path for path in sorted(paths) if has_logic((ROOT / path).read_text())]
    assert len(wanted) > 250
    lacking = [
        path.as_posix()
        for path in wanted
        if not (ROOT / "tests" / path.parent / f"test_{path.name}").is_file()
    ]
    assert not lacking, f"write or move tests for: {', '.join(lacking)}"


# Every verb reads a Config, and every benchmark scores by a Key of its own.
MANY_SHARE = {"Config", "Key"}


def test_no_two_classes_of_the_code_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for module, path in module_paths().items():
        if not module.startswith("tests."):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and node.name not in MANY_SHARE:
                    places.setdefault(node.name, []).append(module)
    assert len(places) > 300
    shared = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not shared, f"rename by what each class is: {shared}"


def test_every_room_is_installed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = set(config["options"]["packages"].split())
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for stage in ["mobilellama", *MAY_IMPORT]
        for path in (ROOT / stage).rglob("*.py")
    }
    names = {name if name.startswith("mobilellama") else f"mobilellama.{name}" for name in found}
    assert packages == names


def test_stdlib_tokenize_survives_the_repository_root_on_sys_path() -> None:
    code = "import tokenize; print(tokenize.__file__); tokenize.generate_tokens"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not Path(out.stdout.strip()).is_relative_to(ROOT)


def imported_stages(source: str) -> set[str]:
    """Return the stages that a module's source imports, in whatever form."""
    parts = [names[0].split(".") for names in imported_names(source)]
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
    paths = [path for path in (ROOT / "mobilellama").rglob("*.py")
             if path.relative_to(ROOT / "mobilellama").parts[0] not in MAY_IMPORT]  # fmt: skip
    assert len(paths) > 20
    for path in paths:
        assert not imported_stages(path.read_text()), f"{path} may not import a stage"


CIRCLE = {"mobilellama.room.a", "mobilellama.room.b"}


@pytest.mark.parametrize(
    "back",
    [
        "import mobilellama.room.a",
        "import os, mobilellama.room.a as other",
        "from mobilellama.room.a import name",
        "from mobilellama.room import b, a",
        "from . import a",
        "from .a import name",
        "from ..room.a import name",
        "def f():\n    from mobilellama.room.a import name",
        "class C:\n    async def f(self):\n        import mobilellama.room.a",
        "f = lambda: __import__('mobilellama.room.a')",
        "if TYPE_CHECKING:\n    from mobilellama.room.a import name",
        "import typing\nif typing.TYPE_CHECKING:\n    import mobilellama.room.a",
        "try:\n    pass\nexcept ImportError:\n    from mobilellama.room import a",
        "import importlib\nimportlib.import_module('mobilellama.room.a')",
        "VERBS = {'run': Verb('mobilellama.room.a', 'Run it')}",
    ],
)
def test_a_circle_is_found_in_every_form_that_an_import_has(back: str) -> None:
    sources = {"mobilellama.room.a": "from mobilellama.room.b import x", "mobilellama.room.b": back}
    imports = {name: imported_modules(sources[name], name, CIRCLE) for name in CIRCLE}
    assert imports == {"mobilellama.room.a": {"mobilellama.room.b"},
                       "mobilellama.room.b": {"mobilellama.room.a"}}  # fmt: skip
    circle = find_circle(imports)
    assert circle and circle[0] == circle[-1] and {*circle} == CIRCLE


def test_a_circle_through_many_modules_is_told_in_order_and_a_fork_is_none() -> None:
    fork = {"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set[str]()}
    assert find_circle(fork) is None
    ring = fork | {"d": {"e"}, "e": {"b"}}
    found = find_circle(ring)
    assert found and found[0] == found[-1] and sorted(found[1:]) == ["b", "d", "e"]
    assert all(first in ring[second] for first, second in pairwise(found))


@pytest.mark.parametrize(
    "source",
    [
        "import room.a",  # another package
        "from mobilellama.room.a_plan import a",
        "# import mobilellama.room.a",
        '"""See mobilellama.room.a."""',
        "from mobilellama.room import name",
        "RESTART = ['python', '-m', 'mobilellama.room.b']",  # itself
    ],
)
def test_what_only_looks_like_an_import_is_none(source: str) -> None:
    assert not imported_modules(source, "mobilellama.room.b", CIRCLE)


def test_no_imports_of_modules_go_round_in_a_circle() -> None:
    """Also where an import is hidden in a function or behind TYPE_CHECKING."""
    paths = module_paths()
    assert len(paths) > 400
    imports = {
        name: imported_modules(path.read_text(), name, paths) for name, path in paths.items()
    }
    assert sum(map(len, imports.values())) > 1_000
    circle = find_circle(imports)
    assert circle is None, " is imported by ".join(circle or [])


# What may import what within a stage: each line what stands above it here, and itself. Files of a
# stage's top level are of two sorts. Those that a line names are what the rooms below that line
# build on. The REST (config, start, run, main, ...) uses the rooms, and no room imports it.
LAYERS: dict[str, list[str]] = {
    "mobilellama": [
        "__init__ config terminal log progress",
        "files",
        "commandline tokenizers",
        REST,
    ],
    "tokenize": ["encoding sources", "planning", REST],
    "shards": [
        "buckets dataset format lengths manifest manifest_table mixture order packing permute "
        "reader rows source_file windows",
        "sources",
        "audit compare export report verification",
        "showing",
        REST,
    ],
    "pretrain": [
        "optimizers",
        "attention linear_cross_entropy model optimizer schedule sections weight_source",
        "engines sinks",
        "monitoring state",
        "config",
        "planning",
        "hf",
        "generation",
        "evaluation",
        REST,
    ],
    "sft": ["data", "lora lora_config", "finetuned", "chat", "export", REST],
    "vlm": [
        "data",
        "projectors",
        "architecture model packed_attention quantization towers",
        "formats",
        "chat",
        "benchmarks",
        REST,
    ],
    "launch": [
        "config folder health slurm steps time_limit",
        "doctor launched",
        "submission",
        REST,
    ],
}


@pytest.mark.parametrize("stage", LAYERS)
def test_every_room_has_its_layer(stage: str) -> None:
    named = [name for layer in LAYERS[stage] for name in layer.split() if name != REST]
    found = imports_within(stage)
    rooms = {path.parts[0] for path in found if len(path.parts) > 1}
    assert len(named) == len({*named}) and rooms <= {*named}
    assert {*named} - rooms <= {path.stem for path in found}, "a name that is no file and no room"


def test_a_stage_without_layers_has_no_room() -> None:
    for stage in MAY_IMPORT.keys() - LAYERS.keys():
        assert {len(path.parts) for path in imports_within(stage)} == {1}, stage


@pytest.mark.parametrize("stage", LAYERS)
def test_rooms_import_only_what_stands_below_them(stage: str) -> None:
    ties = [
        f"{path} -> {other}" for path, other in upward_imports(imports_within(stage), LAYERS[stage])
    ]
    assert not ties, f"{stage}: {'; '.join(ties)}"


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("chat/a.py", "data/b.py", True),
        ("chat/a.py", "chat/b.py", True),
        ("chat/a.py", "model.py", True),
        ("model.py", "tower.py", True),
        ("model.py", "data/b.py", True),
        ("run.py", "chat/b.py", True),
        ("run.py", "config.py", True),
        ("data/a.py", "chat/b.py", False),
        ("data/a.py", "model.py", False),
        ("model.py", "chat/b.py", False),
        ("chat/a.py", "serve/b.py", False),
        ("chat/a.py", "run.py", False),
        ("model.py", "run.py", False),
    ],
)
def test_an_import_of_a_higher_layer_is_seen(importer: str, imported: str, allowed: bool) -> None:
    imports = {Path(importer): {Path(imported)}, Path(imported): set[Path]()}
    found = upward_imports(imports, ["data", "model tower", "chat serve", REST])
    assert found == ([] if allowed else [(Path(importer), Path(imported))])


# Who may load what others made: one file, that tells every library to run no code of theirs.
# demo/generate.py shows what a user does without this project, with the demo's own folder.
LOADERS = {"mobilellama/files/pretrained.py", "demo/generate.py"}
FORBIDDEN_CALLS = {
    "from_pretrained", "from_config", "unsafe_load", "load_pickle", "read_pickle", "full_load",
}  # fmt: skip
FORBIDDEN_NAMES = {"eval", "exec", "__import__"}
FORBIDDEN_LOADS = {
    "torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "yaml.load",
    "joblib.load", "torch.hub.load", "torch.jit.load", "dill.load", "cloudpickle.load",
}  # fmt: skip
# Beside these, torch.load is called where weights_only is written out.
SAFE_KEYWORDS = {"torch.load": "weights_only"}


def unsafe_calls(source: str) -> list[str]:
    """Return the calls of a module that could run code of a file or a folder."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        trusts = given.get("trust_remote_code", "False") != "False"
        if trusts or given.get("allow_pickle", "False") != "False":
            found.append(name)
        elif name in FORBIDDEN_LOADS and given.get(SAFE_KEYWORDS.get(name, "")) != "True":
            found.append(name)
        elif name in FORBIDDEN_NAMES or name.rpartition(".")[2] in FORBIDDEN_CALLS:
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("AutoModel.from_pretrained(folder)", ["AutoModel.from_pretrained"]),
        ("a.AutoModel.from_config(config)", ["a.AutoModel.from_config"]),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=False)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("pickle.loads(data)", ["pickle.loads"]),
        ("np.load(path, allow_pickle=True)", ["np.load"]),
        ("np.load(path)", []),
        ("load_dataset(name, trust_remote_code=True)", ["load_dataset"]),
        ("yaml.load(text, Loader)", ["yaml.load"]),
        ("yaml.safe_load(text)", []),
        ("model.eval()", []),
        ("eval(text)", ["eval"]),
    ],
)
def test_a_call_that_could_run_a_files_code_is_seen(source: str, calls: list[str]) -> None:
    assert unsafe_calls(source) == calls


def test_only_one_file_loads_what_others_made() -> None:
    folders = [*MAY_IMPORT, "mobilellama", "demo", "benchmarks"]
    paths = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert len(paths) > 100
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix()
        if name not in LOADERS:
            found = unsafe_calls(path.read_text())
            assert not found, (
                f"{name} may not call {', '.join(found)}: see mobilellama/files/pretrained.py"
            )
