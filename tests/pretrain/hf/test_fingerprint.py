"""What tells a model's folder from others: its files' content, and not where it lies."""

import random
import shutil
from pathlib import Path

import pytest

from mobilellama.pretrain.hf.fingerprint import identify, sampled_sha256

SIZE_BYTES = 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the names of a chat model's files."""
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "tokenizer.json", "generation_config.json", "README.md"):
        (made / name).write_text(f"what {name} holds")
    (made / "model.safetensors").write_bytes(random.Random(1).randbytes(SIZE_BYTES))
    return made


def test_a_model_is_known_by_its_content(folder: Path, tmp_path: Path) -> None:
    known = identify(str(folder))
    assert identify(str(shutil.copytree(folder, tmp_path / "moved"))) == known
    # As training leaves it: of the same size, and every tensor another.
    (folder / "model.safetensors").write_bytes(random.Random(2).randbytes(SIZE_BYTES))
    assert identify(str(folder)) != known


@pytest.mark.parametrize(
    ("name", "place", "same"),
    [("model.safetensors", 0, False), ("model.safetensors", -1, False),
     ("tokenizer.json", 5, False), ("generation_config.json", -1, False),
     ("config.json", 0, False), ("README.md", 0, True)],
)  # fmt: skip
def test_a_changed_byte_at_either_end_of_a_file_makes_another_model(
    folder: Path, name: str, place: int, same: bool
) -> None:
    known = identify(str(folder))
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 1
    (folder / name).write_bytes(data)
    assert (identify(str(folder)) == known) == same


def test_the_name_and_the_size_of_a_sampled_file_count(tmp_path: Path) -> None:
    for name, size in (("a.bin", 9_000_000), ("b.bin", 9_000_000), ("c/a.bin", 9_000_001)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    found = {sampled_sha256([], [tmp_path / name]) for name in ("a.bin", "b.bin", "c/a.bin")}
    assert len(found) == 3
