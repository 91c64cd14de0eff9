import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mobilellama.config import DataError
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.counts import Counts
from mobilellama.tokenize.documents import read_documents
from mobilellama.tokenize.slices import find_slices
from mobilellama.tokenize.sources import SourcesConfig
from mobilellama.tokenize.texts import BadRecordError, parse_text

GOOD = b'{"text": "good"}\n'


def read(root: Path, *, slice_bytes: int = 1 << 30) -> tuple[list[str], list[Counts]]:
    """Return the texts of every slice of a corpus, and each slice's counts."""
    sources = SourcesConfig(root=str(root))
    texts, counted = [], []
    for piece in find_slices(sources, slice_bytes):
        counted.append(Counts())
        for batch in read_documents(piece, sources, counted[-1]):
            texts += batch
    return texts, counted


def corpus(folder: Path, data: bytes, name: str = "a.jsonl") -> Path:
    """Write one file into subset c4."""
    (folder / "c4").mkdir(exist_ok=True)
    (folder / "c4" / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON (an empty line)"),
        (b"  \t", "not JSON (an empty line)"),
        (b"hello", "not JSON (Expecting value at character 0 of it)"),
        (b'{"text": "cut of', "not JSON (Unterminated string starting at at character 9 of it)"),
        (b'{"text": "a"} {"text": "b"}', "not JSON (Extra data at character 14 of it)"),
        (b'{"text": "a\x01"}', "not JSON (Invalid control character at at character 11 of it)"),
        (b"[" * 100_000, "not JSON (nested too deeply)"),
        (b'{"text": "\xff"}', "invalid UTF-8 (invalid start byte at byte 10 of it)"),
        (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8 (invalid continuation byte at byte 10 of it)"),
        (b'{"meta": NaN, "text": "\xe2\x80"}', "invalid UTF-8"),
        (b"[1, 2]", "not an object but an array"),
        (b'"text"', "not an object but a string"),
        (b"null", "not an object but null"),
        (b'{"meta": {"text": "a"}}', "no 'text'"),
        (b'{"text": null}', "'text' is not a string but null"),
        (b'{"text": 7}', "'text' is not a string but a number"),
        (b'{"text": true}', "'text' is not a string but a boolean"),
        (b'{"text": ["a"]}', "'text' is not a string but an array"),
        (b'{"text": {"a": 1}}', "'text' is not a string but an object"),
    ],
)
def test_a_line_without_text_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError) as error:
        parse_text(line, "text")
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "a", "score": NaN}', "a"),
        (b'{"score": -Infinity, "text": "a"}', "a"),
        (b'{"text": "a", "meta": "\\ud800"}', "a"),
        (b'{"text": "\\ud83d\\ude00"}', "😀"),
        (b'{"text": "a\\u0000b\\nc"}', "a\0b\nc"),
        (b'{"text": "a", "text": "b"}', "b"),
        (b'{"text": "a", "big": ' + b"9" * 40 + b"}", "a"),
        (b'{"text": "a"}\r', "a"),
        ('{"text": "x\u2028y\u0085z"}'.encode(), "x\u2028y\u0085z"),
        (b'{"meta": {}, "text": " "}', " "),
    ],
)
def test_unusual_json_that_is_valid_is_read(line: bytes, text: str) -> None:
    assert parse_text(line, "text") == text


def test_lone_surrogates_become_replacement_characters_and_pairs_are_joined(
    tmp_path: Path,
) -> None:
    lines = [rb'{"text": "a\ud800b"}', rb'{"text": "\udc00\ud83d\ude00\ud800"}', b'{"text": "c"}']
    texts, (counts,) = read(corpus(tmp_path, b"\n".join(lines)))
    assert texts == ["a\ufffdb", "\ufffd😀\ufffd", "c"]
    assert counts.replaced_surrogates == 2
    assert counts.bytes_in == 5 + 10 + 1


def test_bad_and_empty_records_are_counted_with_their_places(tmp_path: Path) -> None:
    lines = [GOOD, b"oops\n", b'{"text": ""}\n', b'{"no": 1}\n', GOOD]
    texts, (counts,) = read(corpus(tmp_path, b"".join(lines)))
    assert texts == ["good", "good"]
    assert (counts.records, counts.bad_records, counts.empty_texts) == (5, 2, 1)
    first, second = counts.bad_places
    assert first == [17, "not JSON (Expecting value at character 0 of it)"]
    assert second == [17 + 5 + 13, "no 'text'"]


def test_places_in_a_zst_count_uncompressed_bytes(tmp_path: Path) -> None:
    packed = zstandard.compress(GOOD * 3 + b"oops\n" + GOOD)
    _, (counts,) = read(corpus(tmp_path, packed, "a.jsonl.zst"))
    assert counts.bad_places[0][0] == 3 * len(GOOD)
    assert counts.source_read == len(packed)


def test_places_are_kept_up_to_a_bound_and_counted_on(tmp_path: Path) -> None:
    _, (counts,) = read(corpus(tmp_path, b"x\n" * 10_050))
    assert counts.bad_records == 10_050
    assert len(counts.bad_places) == 10_000


@pytest.mark.parametrize(
    ("records", "bad", "share", "passes"),
    [
        (20, 10, 0.001, True),  # never fewer than 10
        (20, 11, 0.001, False),
        (11_000, 11, 0.001, True),  # exactly the share
        (10_999, 11, 0.001, False),
        (20_000, 11, 0.0, False),
    ],
)
def test_a_slice_fails_above_its_share_of_bad_records(
    records: int, bad: int, share: float, passes: bool
) -> None:
    counts = Counts(records=records, bad_records=bad, bad_places=[[7, "no 'text'"]] * bad)
    if passes:
        counts.require_few_bad("c4/a.jsonl", share)
        return
    with pytest.raises(DataError) as error:
        counts.require_few_bad("c4/a.jsonl", share)
    message = str(error.value)
    assert message.startswith(f"c4/a.jsonl: {bad} of {records:,} records are bad, more than the")
    assert message.count("at 7: no 'text'") == 3  # the first few


@pytest.mark.parametrize("end", [b"\n", b""])
def test_every_cut_of_a_file_gives_each_line_to_exactly_one_range(
    tmp_path: Path, end: bytes
) -> None:
    """All range sizes, so that a boundary falls on, before and after every line end."""
    values = ["first", "", "x" * 40, "é\u2028", "y", "last"]
    lines = [json.dumps({"text": value}, ensure_ascii=False).encode() for value in values]
    lines.insert(3, b"")  # two line ends side by side
    lines.insert(5, b"broken")
    data = b"\n".join(lines) + end
    corpus(tmp_path, data)
    expected = [value for value in values if value]
    for slice_bytes in range(1, len(data) + 2):
        texts, counts = read(tmp_path, slice_bytes=slice_bytes)
        assert texts == expected, slice_bytes
        assert sum(c.records for c in counts) == len(lines)
        assert sum(c.source_read for c in counts) == len(data)
        places = [place for c in counts for place, _ in c.bad_places]
        assert [data[place:].split(b"\n")[0] for place in places] == [b"", b"broken"]


def test_a_byte_order_mark_is_left_out_at_the_start_only(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    texts, (counts,) = read(corpus(tmp_path, mark + GOOD + mark + GOOD))
    assert texts == ["good"]
    assert counts.bad_places[0][0] == 3 + len(GOOD)


def test_a_line_much_larger_than_a_block_is_read(tmp_path: Path) -> None:
    large = "word " * 2_000_000
    texts, _ = read(corpus(tmp_path, GOOD + json.dumps({"text": large}).encode() + b"\n" + GOOD))
    assert texts == ["good", large, "good"]
    texts, _ = read(tmp_path, slice_bytes=3_000_000)
    assert texts == ["good", large, "good"]


def test_batches_are_bounded_and_in_order(tmp_path: Path) -> None:
    values = [f"{i} " * 1000 for i in range(2000)]
    corpus(tmp_path, b"".join(json.dumps({"text": v}).encode() + b"\n" for v in values))
    sources = SourcesConfig(root=str(tmp_path))
    (piece,) = find_slices(sources, 1 << 30)
    batches = list(read_documents(piece, sources, Counts()))
    assert [text for batch in batches for text in batch] == values
    assert max(sum(map(len, batch)) for batch in batches) < (1 << 20) + 10_000


def test_all_frames_of_a_zst_are_read(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    frames = [zstandard.compress(GOOD * 2), zstandard.compress(b'{"text": "spl')]
    frames += [skippable, zstandard.compress(b""), zstandard.compress(b'it"}\n'), skippable]
    texts, _ = read(corpus(tmp_path, b"".join(frames), "a.jsonl.zst"))
    assert texts == ["good", "good", "split"]


def test_a_zst_truncated_anywhere_fails_with_its_path(tmp_path: Path) -> None:
    packed = zstandard.compress(GOOD * 50) + zstandard.compress(b'{"text": "' + b"ab" * 40 + b'"}')
    first = len(zstandard.compress(GOOD * 50))
    for length in set(range(len(packed))) - {first}:  # at `first` the file is whole
        with pytest.raises(DataError, match=r"c4/a\.jsonl\.zst: truncated: its \d+ bytes end"):
            read(corpus(tmp_path, packed[:length], "a.jsonl.zst"))


def test_a_corrupt_zst_fails_with_its_path(tmp_path: Path) -> None:
    content = "".join(json.dumps({"text": f"{i * i}"}) + "\n" for i in range(10_000)).encode()
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    packed = bytearray(compressor.compress(content))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"a\.jsonl\.zst: corrupt before byte"):
        read(corpus(tmp_path, bytes(packed), "a.jsonl.zst"))
    with pytest.raises(DataError, match="corrupt before byte"):
        read(corpus(tmp_path, GOOD, "a.jsonl.zst"))


def test_a_file_that_changed_since_the_plan_fails(tmp_path: Path) -> None:
    corpus(tmp_path, GOOD * 2)
    sources = SourcesConfig(root=str(tmp_path))
    (piece,) = find_slices(sources, 1 << 30)
    corpus(tmp_path, GOOD * 3)
    with pytest.raises(DataError, match=r"51 bytes before reading, but it had 34 when the plan"):
        list(read_documents(piece, sources, Counts()))


def test_a_file_that_grows_while_it_is_read_fails(tmp_path: Path) -> None:
    corpus(tmp_path, GOOD * 2)
    sources = SourcesConfig(root=str(tmp_path))
    (piece,) = find_slices(sources, 1 << 30)
    batches = read_documents(piece, sources, Counts())
    next(batches)
    corpus(tmp_path, GOOD * 3)
    with pytest.raises(DataError, match="51 bytes after reading"):
        list(batches)


def test_a_file_that_is_gone_fails(tmp_path: Path) -> None:
    gone: dict[str, Any] = {"subset": "c4", "bucket": 0, "source": "c4/a.jsonl"}
    piece = Slice(**gone, size=1, start=0, end=1)
    with pytest.raises(DataError, match=r"c4/a\.jsonl: cannot be opened \(No such file"):
        list(read_documents(piece, SourcesConfig(root=str(tmp_path)), Counts()))
