"""Parameters that do not train: a file that its own hash names."""

from pathlib import Path

import pytest
import torch

from mobilellama.files.atomic import sha256_of_file
from mobilellama.pretrain.state.frozen import FrozenError, FrozenFile, write_frozen
from mobilellama.pretrain.weight_source import HeldWeights
from mobilellama.run_folder import FencedError, RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    assert folder.begin_attempt({}) == 1
    return folder


VALUES = {
    name: torch.arange(shape.numel(), dtype=torch.float16).view(shape) / len(name)
    for name, shape in {"a.weight": torch.Size([3, 2]), "b.weight": torch.Size([4])}.items()
}


def test_what_was_written_is_read_in_its_own_dtype_and_in_fp32(run: RunFolder) -> None:
    sha256 = write_frozen(run, HeldWeights(VALUES), [*VALUES], attempt=1)
    path = run.frozen / f"{sha256}.safetensors"
    assert [file.name for file in run.frozen.iterdir()] == [path.name]
    assert sha256_of_file(path) == sha256
    with FrozenFile(run, sha256) as file:
        file.verify()
        assert file.fingerprint == sha256
        assert {*file.names()} == {*VALUES}
        for name, value in VALUES.items():
            assert file.shape(name) == value.shape and file.dtype(name) == torch.float16
            assert torch.equal(file.stored(name), value)
            assert torch.equal(file.parameter(name), value.float())


def test_the_widest_dtype_is_kept_so_that_nothing_is_rounded(run: RunFolder) -> None:
    wide = {"a.weight": torch.full((3, 2), 1 + 2**-20), "b.weight": torch.ones(4).bfloat16()}
    sha256 = write_frozen(run, HeldWeights(wide), [*wide], attempt=1)
    with FrozenFile(run, sha256) as file:
        assert torch.equal(file.stored("a.weight"), wide["a.weight"])
        assert file.stored("b.weight").dtype == torch.float32


def test_writing_again_gives_the_same_file(run: RunFolder) -> None:
    first, again = (write_frozen(run, HeldWeights(VALUES), [*VALUES], attempt=1) for _ in range(2))
    assert first == again
    assert len(list(run.frozen.iterdir())) == 1


def test_a_missing_a_truncated_and_a_flipped_file_are_named(run: RunFolder) -> None:
    with pytest.raises(FrozenError, match=r"frozen/0+\.safetensors: missing; the"):
        FrozenFile(run, "0" * 64)
    sha256 = write_frozen(run, HeldWeights(VALUES), [*VALUES], attempt=1)
    path = run.frozen / f"{sha256}.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with FrozenFile(run, sha256) as file, pytest.raises(FrozenError, match="differs from its name"):
        file.verify()
    path.write_bytes(good[:-3])
    with pytest.raises(FrozenError, match="cannot be read"):
        FrozenFile(run, sha256)


def test_what_a_killed_start_left_is_removed_and_a_superseded_one_writes_nothing(
    run: RunFolder,
) -> None:
    run.frozen.mkdir()
    (run.frozen / "new-1.safetensors.tmp.host.1.abc").write_bytes(b"half")
    sha256 = write_frozen(run, HeldWeights(VALUES), [*VALUES], attempt=1)
    assert [path.stem for path in run.frozen.iterdir()] == [sha256]
    assert run.begin_attempt({}) == 2
    with pytest.raises(FencedError, match="attempt 1 was superseded by attempt 2"):
        write_frozen(run, HeldWeights(VALUES), ["a.weight"], attempt=1)
    assert [path.stem for path in run.frozen.iterdir()] == [sha256]
