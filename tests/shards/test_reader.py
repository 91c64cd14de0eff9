import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.mixture import PERIOD
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
from tests.helpers.sealed import edit_sealed
from tests.shards.conftest import IDENTITY, receipt


def steps(
    dataset: TokenDataset,
    *,
    world_size: int,
    micro_batch_size: int,
    workers: int,
    global_batch_size: int = 24,
    count: int = 10,
) -> list[list[bytes]]:
    """Read steps as ranks do, each its slice in micro-batches; return each step's samples."""
    mixture, windows = open_order(dataset, seq_len=32, mixture=None, seed=3)

    def read(positions: Sequence[int]) -> list[bytes]:
        located = mixture.locate(np.array(positions))
        return [
            windows[mixture.subsets[subset]].tokens(sample).tobytes()
            for subset, sample in zip(located.subset, located.sample, strict=True)
        ]

    taken = []
    each = global_batch_size // world_size
    for step in range(count):
        first = step * global_batch_size
        batches = [
            range(start, start + micro_batch_size)
            for rank in range(world_size)
            for start in range(first + rank * each, first + (rank + 1) * each, micro_batch_size)
        ]
        with ThreadPoolExecutor(workers) as pool:
            taken.append([ids for batch in pool.map(read, batches) for ids in batch])
    return taken


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "workers"),
    [(1, 24, 1), (2, 3, 1), (3, 8, 4), (8, 1, 2), (24, 1, 3)],
)
def test_the_order_is_the_same_for_every_world_size_micro_batch_and_worker_count(
    small_dataset: Path, world_size: int, micro_batch_size: int, workers: int
) -> None:
    dataset = TokenDataset(small_dataset)
    reference = steps(dataset, world_size=1, micro_batch_size=1, workers=1)
    assert reference == steps(
        TokenDataset(small_dataset),
        world_size=world_size,
        micro_batch_size=micro_batch_size,
        workers=workers,
    )
    assert len({ids for step in reference for ids in step}) > 200


def test_an_epoch_over_real_files_reads_every_sample_of_every_subset_once(
    small_dataset: Path,
) -> None:
    dataset = TokenDataset(small_dataset)
    mixture, windows = open_order(dataset, seq_len=128, mixture=None, seed=11)
    # Shares are exact at a period's end: so many periods hold two epochs of each subset.
    periods = max(2 * len(windows[name]) // n + 1 for name, n in mixture.identity().items())
    located = mixture.locate(np.arange(periods * PERIOD))
    for i, name in enumerate(mixture.subsets):
        stream = located.sample[located.subset == i]
        count = len(windows[name])
        first, second = stream[:count], stream[count : 2 * count]
        assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(count))
        assert first.tolist() != second.tolist()


OPEN_AND_READ = """
import sys, time
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
import pyarrow.parquet
started_s = time.perf_counter()
dataset = TokenDataset(sys.argv[1])
mixture, windows = open_order(dataset, seq_len=2048, mixture=None, seed=1337)
located = mixture.locate(3 * 10**11 // 2048)
ids = windows[mixture.subsets[int(located.subset)]].tokens(int(located.sample))
elapsed_s = time.perf_counter() - started_s
# Not ru_maxrss, which begins with the peak of the process that started this one.
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(len(ids), sum(map(len, windows.values())), elapsed_s, int(peak.split()[1]) / 1024)
"""


def test_a_corpus_of_1300_billion_tokens_opens_within_a_second_and_200_mb(tmp_path: Path) -> None:
    """2,600 buckets of 5e8 tokens, as sparse files: 2.6 TB by their sizes, no block on disk."""
    tokens, buckets = 500_000_000, 2600
    lengths = [1_000_000] * 500
    receipts = []
    for bucket in range(buckets):
        subset = "common_crawl" if bucket % 3 else "c4"
        path = tmp_path / f"{bucket_name(subset, bucket)}.bin"
        path.parent.mkdir(exist_ok=True)
        try:
            with open(path, "wb") as file:
                file.truncate(2 * tokens)
        except OSError as error:
            pytest.skip(f"the file system of {tmp_path} has no sparse files: {error}")
        if path.stat().st_blocks > 1000:
            pytest.skip(f"the file system of {tmp_path} has no sparse files")
        receipts.append(receipt(subset, bucket, lengths))
    write_dataset(tmp_path, IDENTITY, receipts)
    out = subprocess.run(
        [sys.executable, "-c", OPEN_AND_READ, str(tmp_path)],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    ids, samples, elapsed_s, peak_mb = map(float, out)
    assert ids == 2049
    assert samples == buckets * ((tokens - 1) // 2048)
    assert elapsed_s < 1 and peak_mb < 200, (elapsed_s, peak_mb)


@pytest.fixture
def copy(small_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_dataset, tmp_path / "copy"))


def test_a_manifest_that_is_not_the_dataset_s_is_refused(copy: Path) -> None:
    manifest = copy / "manifest.parquet"
    content = bytearray(manifest.read_bytes())
    content[100] ^= 1
    manifest.write_bytes(content)
    with pytest.raises(DataError) as caught:
        TokenDataset(copy)
    assert str(caught.value) == (
        f"{manifest}: not the one that dataset.json was written with. Run 'mobilellama tokenize "
        f"finish --output {copy}': it writes both from the receipts"
    )
    manifest.unlink()
    with pytest.raises(DataError, match=r"manifest\.parquet: missing; the one that"):
        TokenDataset(copy)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"identity": 3}', '{"identity": {}}'])
def test_a_broken_dataset_json_is_named(copy: Path, content: str) -> None:
    (copy / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json: not the description of a dataset\. Run"):
        TokenDataset(copy)


def test_another_format_version_is_refused(copy: Path) -> None:
    identity = json.loads((copy / "dataset.json").read_text())["identity"]
    edit_sealed(copy / "dataset.json", identity=identity | {"format_version": 99})
    with pytest.raises(DataError, match="format version 99, but this program reads 1"):
        TokenDataset(copy)


def test_folders_that_are_no_dataset_are_told_apart(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.path = .*nowhere: is not a folder"):
        TokenDataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: holds no dataset\.json"):
        TokenDataset(tmp_path / "empty")
    (copy / "dataset.json").unlink()
    with pytest.raises(ConfigError, match=r"holds buckets that are not finished\. Run"):
        TokenDataset(copy)


def test_the_tokenizer_that_a_user_gives_must_be_the_dataset_s(
    small_dataset: Path, small_tokenizer: Path, copy: Path, tmp_path: Path
) -> None:
    dataset = TokenDataset(small_dataset)
    sha256 = dataset.identity.tokenizer_sha256
    assert dataset.open_tokenizer(None).path == small_dataset / "tokenizer.model"
    given = dataset.open_tokenizer(str(small_tokenizer))
    assert (given.path, given.sha256) == (small_tokenizer, sha256)
    (copy / "tokenizer.model").unlink()
    assert TokenDataset(copy).open_tokenizer(str(small_tokenizer)).sha256 == sha256
    other = tmp_path / "other.model"
    model = small_tokenizer.read_bytes()
    other.write_bytes(model.replace(b"\xe2\x96\x81the", b"\xe2\x96\x81tha", 1))
    with pytest.raises(ConfigError, match=r"tokenizer = .*other\.model: has sha256 .*, but "):
        dataset.open_tokenizer(str(other))
