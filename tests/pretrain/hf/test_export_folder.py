"""The folder of an export is whole or not there, also where no folder can be put in its place."""

import os
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.export_folder import new_folder, require_free


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that says it is a mount point, and that a rename to would fail on."""
    output = tmp_path / "mounted"
    (output / "lost+found").mkdir(parents=True)  # not empty, so no folder can be renamed to it
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == output)
    return output


def write(folder: Path) -> None:
    for name in ("adapter_config.json", "config.json", "model.safetensors", "README.md"):
        (folder / name).write_text(name)


def test_a_mount_point_takes_the_files_of_an_export(mounted: Path) -> None:
    require_free(mounted)
    inode = mounted.stat().st_ino
    with new_folder(mounted) as folder:
        assert folder.parent == mounted  # on the same file system
        write(folder)
        assert sorted(path.name for path in mounted.iterdir()) == [folder.name, "lost+found"]
    assert mounted.stat().st_ino == inode
    names = ["README.md", "adapter_config.json", "config.json", "lost+found", "model.safetensors"]
    assert sorted(path.name for path in mounted.iterdir()) == names
    with pytest.raises(ConfigError, match="exists and is not empty"):
        require_free(mounted)


def test_an_export_that_fails_leaves_a_mount_point_empty(mounted: Path) -> None:
    with pytest.raises(ValueError, match="half"), new_folder(mounted) as folder:
        write(folder)
        raise ValueError("half")
    assert [path.name for path in mounted.iterdir()] == ["lost+found"]
    with pytest.raises(OSError, match=r"not empty|exists|directory"), new_folder(mounted) as folder:
        write(folder)
        (mounted / "model.safetensors").mkdir()  # another's, meanwhile
    assert sorted(path.name for path in mounted.iterdir()) == ["lost+found", "model.safetensors"]


def test_a_link_to_an_empty_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link") as folder:
        write(folder)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/config.json").read_text() == "config.json"
