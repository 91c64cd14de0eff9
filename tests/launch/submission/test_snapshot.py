"""The package's copy beside a run: its name, what is in it, and that a job imports from it."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mobilellama
from mobilellama.launch.submission.snapshot import PACKAGE, snapshot_name, take_snapshot

HASH = "[0-9a-f]{8}"


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write_package(root: Path) -> Path:
    """A package shaped as ours: modules, and a stage's folder beside it that it links to."""
    package = root / "mobilellama"
    (root / "stage/presets").mkdir(parents=True)
    package.mkdir()
    (package / "stage").symlink_to("../stage")
    (package / "__init__.py").write_text("NAME = 'first'\n")
    (package / "cli.py").write_text("from mobilellama.stage.main import VALUE\n")
    (root / "stage/main.py").write_text("VALUE = 1\n")
    (root / "stage/presets/demo.yaml").write_text("a: 1\n")
    (root / "stage/__pycache__").mkdir()
    (root / "stage/__pycache__/main.cpython-311.pyc").write_bytes(b"old")
    return package


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a package, committed to a repository of its own."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # a hook that runs the tests has set them
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    root = tmp_path / "repository"
    package = write_package(root)
    (root / ".gitignore").write_text("__pycache__/\n")
    (root / "README.md").write_text("ours\n")
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    return package


def head(package: Path) -> str:
    return git(package, "rev-parse", "HEAD")[:12]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_clean_tree_is_named_for_its_commit(package: Path) -> None:
    assert snapshot_name(package) == head(package)


@pytest.mark.parametrize("changed", ["mobilellama/cli.py", "stage/main.py"])
def test_an_edit_that_is_not_committed_changes_the_name(package: Path, changed: str) -> None:
    path = package.parent / changed
    path.write_text("VALUE = 2\n")
    first = snapshot_name(package)
    assert re.fullmatch(f"{head(package)}-dirty-{HASH}", first)
    path.write_text("VALUE = 3\n")
    second = snapshot_name(package)
    assert re.fullmatch(f"{head(package)}-dirty-{HASH}", second) and second != first
    path.write_text("VALUE = 2\n")
    assert snapshot_name(package) == first
    git(package, "checkout", "--", ":/")
    assert snapshot_name(package) == head(package)


@pytest.mark.parametrize("new", ["mobilellama/new.py", "stage/new.py", "stage/presets/new.yaml"])
def test_a_file_that_is_not_tracked_changes_the_name(package: Path, new: str) -> None:
    (package.parent / new).write_text("x = 1\n")
    assert re.fullmatch(f"{head(package)}-dirty-{HASH}", snapshot_name(package))


def test_a_file_that_is_not_tracked_is_seen_where_git_is_told_not_to_show_any(
    package: Path,
) -> None:
    git(package, "config", "status.showUntrackedFiles", "no")
    (package / "new.py").write_text("x = 1\n")
    assert re.fullmatch(f"{head(package)}-dirty-{HASH}", snapshot_name(package))


def test_a_staged_edit_and_a_removed_file_change_the_name(package: Path) -> None:
    (package / "cli.py").unlink()
    removed = snapshot_name(package)
    assert re.fullmatch(f"{head(package)}-dirty-{HASH}", removed)
    git(package, "add", "--all", ":/")
    assert snapshot_name(package) == removed
    git(package, "commit", "--quiet", "--message", "second")
    assert snapshot_name(package) == head(package)


@pytest.mark.parametrize("elsewhere", ["README.md", "new.py", "tests/test_new.py"])
def test_what_is_elsewhere_does_not_change_the_name(package: Path, elsewhere: str) -> None:
    path = package.parent / elsewhere
    path.parent.mkdir(exist_ok=True)
    path.write_text("x = 1\n")
    assert snapshot_name(package) == head(package)


def test_outside_of_git_the_name_is_the_version_and_the_content(tmp_path: Path) -> None:
    package = write_package(tmp_path / "installed")
    first = snapshot_name(package)
    assert re.fullmatch(f"{re.escape(mobilellama.__version__)}-{HASH}", first)
    (tmp_path / "installed/stage/main.py").write_text("VALUE = 2\n")
    assert re.fullmatch(f"{re.escape(mobilellama.__version__)}-{HASH}", snapshot_name(package))
    assert snapshot_name(package) != first


def test_the_names_of_files_are_part_of_the_content(tmp_path: Path) -> None:
    package = write_package(tmp_path / "installed")
    first = snapshot_name(package)
    (package / "cli.py").rename(package / "cli2.py")
    assert snapshot_name(package) != first


def test_a_package_that_a_repository_only_surrounds_is_not_named_for_its_commit(
    package: Path,
) -> None:
    """A virtual environment inside of somebody's repository."""
    root = package.parent / "venv"
    installed = write_package(root)
    (root / ".gitignore").write_text("*\n")
    assert re.fullmatch(f"{re.escape(mobilellama.__version__)}-{HASH}", snapshot_name(installed))


def test_without_git_the_name_is_the_version_and_the_content(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert re.fullmatch(f"{re.escape(mobilellama.__version__)}-{HASH}", snapshot_name(package))


def test_the_same_content_has_the_same_name_wherever_it_is(tmp_path: Path) -> None:
    names = {snapshot_name(write_package(tmp_path / place)) for place in ("one", "two")}
    assert len(names) == 1


def test_the_copy_has_plain_folders_and_nothing_compiled(package: Path, tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path / "launch/code", package)
    assert copy == tmp_path / "launch/code" / head(package)
    assert files(copy) == [
        "mobilellama/__init__.py",
        "mobilellama/cli.py",
        "mobilellama/stage/main.py",
        "mobilellama/stage/presets/demo.yaml",
    ]
    assert not [path for path in copy.rglob("*") if path.is_symlink()]
    assert (copy / "mobilellama/stage/main.py").read_text() == "VALUE = 1\n"


def test_a_job_imports_the_copy_whatever_its_folder_holds(package: Path, tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path / "code", package)
    (package / "__init__.py").write_text("NAME = 'edited'\n")
    (package.parent / "stage/main.py").write_text("VALUE = 2\n")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import mobilellama, mobilellama.cli; "
            "print(mobilellama.NAME, mobilellama.cli.VALUE, mobilellama.__file__)",
        ],
        cwd=package.parent,
        env=os.environ | {"PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"first 1 {copy}/mobilellama/__init__.py\n"


def test_a_snapshot_that_is_there_is_used_again(package: Path, tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path / "code", package)
    inode = copy.stat().st_ino
    assert take_snapshot(tmp_path / "code", package) == copy
    assert copy.stat().st_ino == inode
    (package / "cli.py").write_text("edited = True\n")
    other = take_snapshot(tmp_path / "code", package)
    assert other != copy
    assert sorted((tmp_path / "code").iterdir()) == sorted([copy, other])


def test_snapshots_at_the_same_time_do_not_harm_each_other(package: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(lambda _: take_snapshot(code, package), range(8)))
    assert set(copies) == {code / head(package)}
    assert list(code.iterdir()) == [code / head(package)]  # no half ones beside it
    assert len(files(copies[0])) == 4


def test_what_is_no_file_is_left_out(package: Path, tmp_path: Path) -> None:
    os.mkfifo(package.parent / "stage/pipe")  # reading it would never end
    (package.parent / "stage/gone.py").symlink_to("nowhere")
    copy = take_snapshot(tmp_path / "code", package)
    assert len(files(copy)) == 4 and not (copy / "mobilellama/stage/pipe").exists()


def test_our_own_package_is_copied_with_all_its_stages_and_rooms(tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path / "code")
    links = [path.name for path in PACKAGE.iterdir() if path.is_symlink()]
    assert {"launch", "pretrain", "tokenize"} <= set(links) or not links
    stages = [path for path in PACKAGE.iterdir() if path.is_dir()]
    for folder in [PACKAGE, *stages, *(room for stage in stages for room in stage.iterdir())]:
        for module in folder.glob("*.py"):
            assert (copy / "mobilellama" / module.relative_to(PACKAGE)).is_file()
    assert (copy / "mobilellama/launch/job.sbatch").is_file()
    assert list((copy / "mobilellama/pretrain/presets").glob("*.yaml"))
