import csv
import gzip
import io
import random
from pathlib import Path

import pyarrow.csv as pc
import pytest
import zstandard

from mobilellama.config import ConfigError, DataError
from mobilellama.tokenize.sources import csv_file, lines
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices


def _read(folder: Path, data: bytes, name: str = "a.csv") -> tuple[list[str], Counts]:
    (folder / name).write_bytes(data)
    sources, counts = SourcesConfig(dataset=str(folder)), Counts()
    (slice_,) = find_slices(sources, 1 << 30)
    batches = read_documents(slice_, sources, counts)
    return [text for batch in batches for text in batch], counts


def _written(rows: list[list[str]], **options: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, **options).writerows(rows)  # pyright: ignore[reportArgumentType]
    return out.getvalue().encode()


def test_hostile_fields_are_those_that_arrow_reads(tmp_path: Path) -> None:
    """Quotes, commas, line breaks of all kinds, spaces, a NUL, text of many scripts."""
    rng = random.Random(7)
    signs = [
        '"',
        ",",
        "\n",
        "\r\n",
        "\r",
        " ",
        "a",
        "ä",
        "\u2028",
        "😀",
        "'",
        "\t",
        ";",
        "\x85",
        "\0",
    ]
    texts = ["x" + "".join(rng.choices(signs, k=rng.randrange(60))) for _ in range(3_000)]
    data = _written([["id", "text", "more"], *([str(i), t, "z"] for i, t in enumerate(texts))])
    found, counts = _read(tmp_path, data)
    table = pc.read_csv(io.BytesIO(data), parse_options=pc.ParseOptions(newlines_in_values=True))
    assert found == texts == table["text"].to_pylist()
    assert (counts.records, counts.bad_records, counts.source_read) == (3_000, 0, len(data))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst"])
def test_a_packed_file_gives_the_texts_of_the_plain_one(tmp_path: Path, name: str) -> None:
    data = b'\xef\xbb\xbftext,n\r\n"one, two",1\r\n\r\nthree,2'
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix, bytes)
    assert _read(tmp_path, pack(data), name)[0] == ["one, two", "three"]


def test_bad_rows_are_counted_with_their_places(tmp_path: Path) -> None:
    lines = [
        b"id,text", b"1,good", b"2,a,b", b"3", b'4,"closed"later', b"5,\xff", b"6,also good",
        b"\xff7,third",
    ]  # fmt: skip
    data = b"\n".join(lines) + b"\n"
    texts, counts = _read(tmp_path, data)
    assert texts == ["good", "also good", "third"]
    starts = [len(b"\n".join(lines[:i])) + 1 for i in range(len(lines))]
    assert counts.bad_places == [
        [starts[2], "3 fields, but the heading has 2"],
        [starts[3], "1 fields, but the heading has 2"],
        [starts[4], "not CSV (',' expected after '\"')"],
        [starts[5], "'text' is not UTF-8"],
    ]


def test_a_quote_that_is_never_closed_is_an_error_and_not_one_bad_row(tmp_path: Path) -> None:
    data = b'text\ngood\n"open\n' + b"lost\n" * 1_000
    with pytest.raises(DataError, match="a quote of the row at byte 10 is never closed"):
        _read(tmp_path, data)


def test_a_field_longer_than_python_allows_is_read_and_one_beyond_the_limit_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "long " * 100_000
    assert _read(tmp_path, _written([["text"], [text]]))[0] == [text]
    monkeypatch.setattr(csv_file, "LONGEST_LINE_BYTES", 1_000)
    with pytest.raises(DataError, match="a field of the row at byte 6 has more than 1,000"):
        _read(tmp_path, _written([["text"], ["long\n" * 1_000]]))


def test_a_line_whose_end_is_not_held_is_an_error_and_no_text_that_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _written([["other", "text"], ["a" * 1_500_000, "b" * 3_500_000], ["c", "d"]])
    assert [len(text) for text in _read(tmp_path, data)[0]] == [3_500_000, 1]
    for module in (csv_file, lines):
        monkeypatch.setattr(module, "LONGEST_LINE_BYTES", 4_000_000)
    with pytest.raises(DataError, match="the line at byte 12 has more than 4,000,000 bytes"):
        _read(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a;text\n1;2\n", r"has no such column \(it has a;text\)"),
        (b"a,b\n", r"has no such column \(it has a, b\)"),
    ],
)
def test_a_file_without_the_column_is_refused_while_planning(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, data)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "text\none\n".encode("utf-16"), "not UTF-8 text"),
        ("a.csv.gz", gzip.compress(b"text\n" + b"one\n" * 9, mtime=0)[:-9], "truncated"),
        ("a.csv", b'"text\n', "a quote of the row at byte 0 is never closed"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        _read(tmp_path, data, name)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert _read(tmp_path, b"")[0] == []
    assert _read(tmp_path, b"text\n")[0] == []
