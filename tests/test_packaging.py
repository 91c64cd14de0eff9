"""The wheel holds every stage and what the stages read, and works without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mobilellama.files.presets import preset_names

ROOT = Path(__file__).parents[1]
STAGES = ("launch", "pretrain", "sft", "shards", "tokenize", "vlm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built without the network."""
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("mobilellama", *STAGES):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skip)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
            "--no-build-isolation", "--wheel-dir", str(made), str(copy),
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    [path] = made.glob("*.whl")
    return path


@pytest.mark.slow
def test_every_module_and_preset_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"mobilellama/{path.name}" for path in (ROOT / "mobilellama").glob("*.py")}
    for stage in STAGES:
        for path in (ROOT / stage).rglob("*"):
            if path.suffix in (".py", ".yaml", ".sbatch"):
                expected.add(f"mobilellama/{stage}/{path.relative_to(ROOT / stage).as_posix()}")
    assert expected <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"mobilellama", f"mobilellama-{wheel.name.split('-')[1]}.dist-info"}


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import mobilellama.files.presets as p, mobilellama.pretrain.main as m;"
        "import mobilellama.shards.mixture as x;"
        "print(m.__file__); print(p.preset_names(m.PRESETS));"
        "print(p.preset_names(x.PRESETS))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    where, presets, mixtures = done.stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert presets == str(preset_names(ROOT / "pretrain/presets"))
    assert mixtures == str(preset_names(ROOT / "shards/mixtures"))
