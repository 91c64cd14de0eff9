"""A source that was cut, packed in several frames, or changes under its reader."""

import gzip
import hashlib
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mobilellama.config import DataError
from mobilellama.files.json_lines import LONGEST_LINE_BYTES
from mobilellama.shards.dataset import Slice
from mobilellama.shards.source_file import SourceRange
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.lines import split_lines, view_lines
from mobilellama.tokenize.sources.slices import find_slices
from tests.tokenize.conftest import GOOD, corpus, read


def test_all_frames_of_a_zst_are_read(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    frames = [zstandard.compress(GOOD * 2), zstandard.compress(b'{"text": "spl')]
    frames += [skippable, zstandard.compress(b""), zstandard.compress(b'it"}\n'), skippable]
    texts, _ = read(corpus(tmp_path, b"".join(frames), "a.jsonl.zst"))
    assert texts == ["good", "good", "split"]


def test_a_zst_truncated_anywhere_fails_with_its_path(tmp_path: Path) -> None:
    packed = zstandard.compress(GOOD * 50) + zstandard.compress(b'{"text": "' + b"ab" * 40 + b'"}')
    first = len(zstandard.compress(GOOD * 50))
    for length in set(range(1, len(packed))) - {first}:  # at `first` the file is whole
        with pytest.raises(DataError, match=r"c4/a\.jsonl\.zst: truncated: its \d+ bytes end"):
            read(corpus(tmp_path, packed[:length], "a.jsonl.zst"))


def test_a_corrupt_zst_fails_with_its_path(tmp_path: Path) -> None:
    content = "".join(json.dumps({"text": f"{i * i}"}) + "\n" for i in range(10_000)).encode()
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    packed = bytearray(compressor.compress(content))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"a\.jsonl\.zst: corrupt before byte"):
        read(corpus(tmp_path, bytes(packed), "a.jsonl.zst"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            GOOD,
            r"is not a \.zst file \(it begins with b'{\"text\":'\)\. Give it the name of what it",
        ),
        (gzip.compress(GOOD, mtime=0), r"is not a \.zst file \(it begins with b'\\x1f\\x8b"),
        (b"", r"is empty, which no \.zst file is\. Fetch the file again"),
        (b"\x28\xb5", "truncated: its 2 bytes end within a compressed frame"),
    ],
)
def test_what_is_no_zst_is_told_by_its_first_bytes(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(corpus(tmp_path, content, "a.jsonl.zst"))


@pytest.mark.slow
def test_a_line_that_is_too_long_is_counted_with_its_place_and_not_held(tmp_path: Path) -> None:
    """Its neighbours are read, by one slice or by several, packed or not."""
    long = b'{"text": "' + b"a" * 300_000_000 + b'"}\n'
    bad = [[len(GOOD), "too long (its line has more than 67,108,864 bytes)"]]
    root = tmp_path
    for name, data in {"a.jsonl.zst": zstandard.compress(GOOD + long + GOOD),
                       "a.jsonl": GOOD + long + GOOD}.items():  # fmt: skip
        root = tmp_path / name
        root.mkdir()
        corpus(root, data, name)
        tracemalloc.start()
        texts, (counts,) = read(root)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (texts, counts.records, counts.bad_places) == (["good", "good"], 3, bad)
        if name == "a.jsonl":
            assert peak_bytes < 2.5 * LONGEST_LINE_BYTES
    texts, counted = read(root, slice_bytes=100_000_000)
    assert texts == ["good", "good"]
    assert [c.bad_places for c in counted] == [bad, [], [], []]
    whole = GOOD + long + GOOD
    ranges = [SourceRange.from_json(c.source_file) for c in counted]
    for found in ranges:
        assert found is not None
        assert found.sha256 == hashlib.sha256(whole[found.start : found.end]).hexdigest()
    assert ranges[0] and ranges[0].end == len(GOOD + long)


def test_a_file_that_changed_since_the_plan_fails(tmp_path: Path) -> None:
    corpus(tmp_path, GOOD * 2)
    sources = SourcesConfig(root=str(tmp_path))
    (slice_,) = find_slices(sources, 1 << 30)
    corpus(tmp_path, GOOD * 3)
    with pytest.raises(DataError, match=r"51 bytes before reading, but it had 34 when the plan"):
        list(read_documents(slice_, sources, Counts()))


def test_a_file_that_grows_while_it_is_read_fails(tmp_path: Path) -> None:
    corpus(tmp_path, GOOD * 2)
    sources = SourcesConfig(root=str(tmp_path))
    (slice_,) = find_slices(sources, 1 << 30)
    batches = read_documents(slice_, sources, Counts())
    next(batches)
    corpus(tmp_path, GOOD * 3)
    with pytest.raises(DataError, match="51 bytes after reading"):
        list(batches)


def test_a_file_that_is_gone_fails(tmp_path: Path) -> None:
    gone: dict[str, Any] = {"subset": "c4", "bucket": 0, "source": "c4/a.jsonl"}
    slice_ = Slice(**gone, size=1, start=0, end=1)
    with pytest.raises(DataError, match=r"c4/a\.jsonl: cannot be opened \(No such file"):
        list(read_documents(slice_, SourcesConfig(root=str(tmp_path)), Counts()))


@pytest.mark.parametrize("seed", range(40))
def test_lines_are_the_same_however_the_content_is_cut_into_blocks(seed: int) -> None:
    generator = random.Random(seed)
    content = bytes(generator.choices(b"ab\n\r\x85", k=200)) + b"\n" * (seed % 3)
    content = b"\xef\xbb\xbf" * (seed % 2) + content
    cuts = sorted(generator.choices(range(len(content)), k=seed // 2))
    blocks = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    expected, at = [], 0
    for line in content.split(b"\n"):
        expected.append((at, line if at else line.removeprefix(b"\xef\xbb\xbf")))
        at += len(line) + 1
    if not expected[-1][1]:
        del expected[-1]  # what follows the last line's end is no line
    assert list(split_lines(iter(blocks), 0)) == expected
    assert [(place, bytes(line)) for place, line in view_lines(iter(blocks), 0)] == expected
    later = [(place - 7, line) for place, line in split_lines(iter(blocks), 7)]
    assert later[1:] == expected[1:]


def test_a_source_that_is_gone_or_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    sources = SourcesConfig(root=str(tmp_path))
    (tmp_path / "c4").mkdir()
    unread = Slice(subset="c4", bucket=0, source="c4/a.jsonl", size=0, start=0, end=0)
    with pytest.raises(DataError, match=r"c4/a\.jsonl: cannot be opened \(No such file.*Restore"):
        list(read_documents(unread, sources, Counts()))
    (tmp_path / "c4/a.jsonl").symlink_to("/proc/self/mem")  # page 0 gives a real I/O error
    with pytest.raises(DataError, match=r"c4/a\.jsonl: cannot be read \(Input/output"):
        list(read_documents(unread, sources, Counts()))
