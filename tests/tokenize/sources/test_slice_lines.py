"""Which lines a slice owns, and where each of them is."""

import json
from pathlib import Path

import pytest
import zstandard

from tests.tokenize.conftest import GOOD, corpus, read


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
        places = [int(place) for c in counts for place, _ in c.bad_places]
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


def test_places_in_a_zst_count_uncompressed_bytes(tmp_path: Path) -> None:
    packed = zstandard.compress(GOOD * 3 + b"oops\n" + GOOD)
    _, (counts,) = read(corpus(tmp_path, packed, "a.jsonl.zst"))
    assert counts.bad_places[0][0] == 3 * len(GOOD)
    assert counts.source_read == len(packed)
