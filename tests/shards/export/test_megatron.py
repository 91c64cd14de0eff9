import json
import struct
from pathlib import Path

import numpy as np

from mobilellama.shards.export.export import Config, main
from mobilellama.shards.reader import TokenDataset
from tests.shards.export.conftest import Documents


def read_pair(stem: Path) -> list[list[int]]:
    """Read an indexed dataset as the description of Megatron-LM's format says."""
    index, ids = stem.with_suffix(".idx").read_bytes(), np.fromfile(f"{stem}.bin", "<u2")
    magic, version, code, count, num_indices = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, code) == (b"MMIDIDX\x00\x00", 1, 8) and num_indices == count + 1
    lengths = struct.unpack_from(f"<{count}i", index, 34)
    pointers = struct.unpack_from(f"<{count}q", index, 34 + 4 * count)
    indices = struct.unpack_from(f"<{num_indices}q", index, 34 + 12 * count)
    assert indices == tuple(range(count + 1)) and len(index) == 34 + 20 * count + 8
    assert sum(lengths) == len(ids)
    return [ids[p // 2 : p // 2 + n].tolist() for p, n in zip(pointers, lengths, strict=True)]


def test_the_pairs_hold_each_split_s_documents_in_order(
    small_dataset: Path, documents_of: Documents, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(Config(dataset=str(small_dataset), format="megatron", output=str(out))) == 0
    for subset in TokenDataset(small_dataset).subsets:
        for split in ("train", "heldout"):
            expected = documents_of(subset, split)
            stem = out / f"{subset}/{split}-00000"
            found = read_pair(stem) if stem.with_suffix(".idx").exists() else []
            assert found == expected


def test_the_blend_gives_each_subset_its_weight_whatever_its_number_of_files(
    small_dataset: Path, tmp_path: Path
) -> None:
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text("github: 3\ncommon_crawl: 1\n")
    out = tmp_path / "a b" / "out"  # a blank must not part a path
    config = Config(
        dataset=str(small_dataset), format="megatron", output=str(out), mixture=str(mixture),
        part_tokens=1,
    )  # fmt: skip
    assert main(config) == 0
    blend = json.loads((out / "blend.json").read_text())
    assert sorted(blend) == ["test", "train", "valid"] and blend["test"] is None
    weights = dict(
        zip(map(Path, blend["train"][1::2]), map(float, blend["train"][::2]), strict=True)
    )
    by_subset = {path.parent.name: 0.0 for path in weights}
    for path, weight in weights.items():
        assert path.is_absolute() and path.with_suffix(".idx").is_file()
        by_subset[path.parent.name] += weight
    assert by_subset["github"] / by_subset["common_crawl"] == 3 and "wikipedia" not in by_subset
    first, second = (out / f"github/train-0000{i}" for i in range(2))
    sizes = [path.with_suffix(".bin").stat().st_size for path in (first, second)]
    assert abs(weights[first] / weights[second] - sizes[0] / sizes[1]) < 1e-6
    assert (out / "wikipedia/train-00000.bin").is_file()


def test_without_a_mixture_the_weights_are_the_tokens(small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(Config(dataset=str(small_dataset), format="megatron", output=str(out))) == 0
    train = json.loads((out / "blend.json").read_text())["train"]
    for weight, path in zip(train[::2], train[1::2], strict=True):
        assert int(weight) * 2 == Path(f"{path}.bin").stat().st_size
