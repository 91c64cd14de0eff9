"""How a corpus is cut: which slices, of which bytes, in which order."""

import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import LEAST_BAD_RECORDS, Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from tests.tokenize.conftest import place


def test_the_subset_is_the_first_folder_and_slices_are_numbered_by_path(tmp_path: Path) -> None:
    sources = place(
        tmp_path,
        common_crawl__2023__b_DOT_jsonl_DOT_zst=7,
        common_crawl__2019__z_DOT_jsonl_DOT_zst=5,
        arxiv__a_DOT_jsonl=3,
    )
    assert find_slices(sources, 100) == (
        Slice(subset="arxiv", bucket=0, source="arxiv/a.jsonl", size=3, start=0, end=3),
        Slice(
            subset="common_crawl",
            bucket=0,
            source="common_crawl/2019/z.jsonl.zst",
            size=5,
            start=0,
            end=5,
        ),
        Slice(
            subset="common_crawl",
            bucket=1,
            source="common_crawl/2023/b.jsonl.zst",
            size=7,
            start=0,
            end=7,
        ),
    )


def test_only_uncompressed_files_are_cut_into_ranges(tmp_path: Path) -> None:
    sources = place(tmp_path, book__a_DOT_jsonl=25, book__b_DOT_jsonl_DOT_zst=25)
    ranges = [(slice_.bucket, slice_.start, slice_.end) for slice_ in find_slices(sources, 10)]
    assert ranges == [(0, 0, 10), (1, 10, 20), (2, 20, 25), (3, 0, 25)]


def test_paths_sort_by_bytes_not_by_letters_or_folders(tmp_path: Path) -> None:
    for name in ("é.jsonl", "z.jsonl", "a/x.jsonl", "a-b.jsonl", "B.jsonl"):
        (tmp_path / "c4" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c4" / name).write_bytes(b"{}")
    found = [slice_.source for slice_ in find_slices(SourcesConfig(root=str(tmp_path)), 100)]
    # "-" (0x2d) before "/" (0x2f), capitals before small letters, "é" (0xc3) last
    assert found == [f"c4/{name}.jsonl" for name in ("B", "a-b", "a/x", "z", "é")]


def test_an_empty_file_is_a_slice_of_its_own(tmp_path: Path) -> None:
    """Otherwise emptying a file would number all later buckets anew."""
    sources = place(tmp_path, c4__a_DOT_jsonl=0, c4__b_DOT_jsonl=4)
    assert [(p.bucket, p.start, p.end) for p in find_slices(sources, 10)] == [(0, 0, 0), (1, 0, 4)]


def test_hidden_files_and_notes_are_left_out(tmp_path: Path) -> None:
    sources = place(
        tmp_path,
        urls_DOT_txt=4,
        README_DOT_md=4,
        c4__LICENSE=4,
        c4___DOT_hidden_DOT_gz=4,
        _DOT_cache__x_DOT_jsonl=4,
        c4__a_DOT_jsonl=4,
    )
    assert [slice_.source for slice_ in find_slices(sources, 10)] == ["c4/a.jsonl"]


@pytest.mark.parametrize(
    "name", ["dataset.json", "plan.json", "manifest.parquet", "tokenizer.model"]
)
def test_a_subset_that_is_named_as_a_file_of_the_dataset_is_refused(
    tmp_path: Path, name: str
) -> None:
    place(tmp_path / name, a_DOT_jsonl=4)
    with pytest.raises(
        ConfigError, match=rf"sources.root = {name}: is the name of a file in every dataset"
    ):
        find_slices(SourcesConfig(root=str(tmp_path)), 10)
    sources = SourcesConfig(dataset=str(tmp_path / name))
    with pytest.raises(ConfigError, match=rf"sources.subset = {name}: is the name of a f"):
        find_slices(sources, 10)


def test_a_plan_of_too_many_slices_is_refused_before_it_is_made(tmp_path: Path) -> None:
    sources = place(tmp_path, c4__a_DOT_jsonl=1)
    os.truncate(tmp_path / "c4/a.jsonl", 10**10)
    with pytest.raises(
        ConfigError, match=r"slice_bytes = 7: splits the corpus into 1,428,571,429 slices"
    ):
        find_slices(sources, 7)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no file in a subset's folder that is one of .jsonl, "),
        (
            {"a_DOT_jsonl": 1},
            "a.jsonl lies directly in it, but must be in the folder of its subset",
        ),
        ({"c4__a_DOT_jsonl_DOT_xz": 1}, "c4/a.jsonl.xz ends in .xz, but must be one of .jsonl, "),
        ({"c4__a_DOT_jsonl_DOT_part": 1}, "ends in .part"),
        ({"c4__a_DOT_parquet": 1}, "ends in .parquet"),
    ],
)
def test_a_root_in_another_shape_is_refused(
    tmp_path: Path, files: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=r"sources.root = .*") as error:
        find_slices(place(tmp_path, **files), 10)
    assert message in str(error.value)


def test_a_missing_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sources.root = .*gone: is not a folder"):
        find_slices(SourcesConfig(root=str(tmp_path / "gone")), 10)


def test_another_text_column_makes_another_source(tmp_path: Path) -> None:
    """The plan must tell a dataset of 'content' from one of 'text'."""
    place(tmp_path, c4__a_DOT_jsonl=4)
    sources = SourcesConfig(root=str(tmp_path), text_column="content")
    (slice_,) = find_slices(sources, 10)
    assert slice_.source == "c4/a.jsonl#content"
    assert sources.unlabelled(slice_.source) == "c4/a.jsonl"


# --- the text column, looked at in the beginnings of a few files

MANY = LEAST_BAD_RECORDS + 1


def write(path: Path, records: list[object]) -> Path:
    """Write a record a line, packed where the name says so; return the root of the tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{json.dumps(record)}\n" for record in records).encode()
    packed = path.suffix == ".zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(content) if packed else content)
    return path.parent.parent


def refused(root: Path, column: str = "text") -> str | None:
    """Return what is said to a tree with this column; None where it is taken."""
    try:
        find_slices(SourcesConfig(root=str(root), text_column=column), 1 << 30)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_the_first_file_of_each_subset_is_looked_at(tmp_path: Path, name: str) -> None:
    write(tmp_path / "arxiv" / name, [{"text": "x"}] * MANY)
    root = write(tmp_path / "book" / name, [{"content": "x", "n": 1}] * MANY)
    told = refused(root)
    assert told == (
        f"sources.text_column = text: {tmp_path / 'book' / name} has no such column "
        "(it has content, n). Name one of them."
    )
    assert "arxiv" in str(refused(root, "content"))


def test_few_records_without_a_text_are_bad_records_and_nothing_more(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "book" / "a.jsonl", [{"n": 1}] * LEAST_BAD_RECORDS)) is None


def test_one_record_that_has_it_is_enough(tmp_path: Path) -> None:
    records: list[object] = [{"n": 1}] * MANY
    records.append({"text": "x"})
    assert refused(write(tmp_path / "book" / "a.jsonl", records)) is None


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    """A worker that reads the rest counts what is bad there."""
    many = [{"n": "x" * 1000}] * 1100
    assert refused(write(tmp_path / "book" / "a.jsonl", [*many, {"text": "x"}])) is not None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"no json\n" * 50),
        ("a.jsonl", b"\xff\xfe\x00" * 50),
        ("a.jsonl.zst", b"no frame"),
        ("a.jsonl", b"[1]\n" * 50),
    ],
)
def test_what_cannot_be_read_is_left_to_the_workers(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / name).write_bytes(content)
    assert refused(tmp_path) is None


def test_of_many_columns_the_first_are_named(tmp_path: Path) -> None:
    record = {f"c{i}": 1 for i in range(30)}
    told = str(refused(write(tmp_path / "book" / "a.jsonl", [record] * MANY)))
    assert "c19, ...)" in told and "c20" not in told


@pytest.mark.parametrize("ending", [".jsonl.gz", ".json.gz", ".json.zst", ".jsonl.zst"])
def test_packed_lines_are_a_slice_each_and_give_the_texts_of_plain_ones(
    tmp_path: Path, ending: str
) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % i for i in range(1, 500))
    pack = gzip.compress if ending.endswith(".gz") else zstandard.compress
    half = len(lines) // 2  # two frames, as parallel packers write them
    (tmp_path / "c4").mkdir()
    file = tmp_path / f"c4/a{ending}"
    file.write_bytes(pack(lines[:half]) + pack(lines[half:]))
    for sources in (SourcesConfig(root=str(tmp_path)), SourcesConfig(dataset=str(tmp_path))):
        (slice_,) = find_slices(sources, 10)
        assert (slice_.start, slice_.end) == (0, slice_.size)
        counts = Counts()
        batches = read_documents(slice_, sources, counts)
        assert [text for batch in batches for text in batch] == [str(i) for i in range(1, 500)]
        assert counts.source_read == slice_.size
    file.write_bytes(file.read_bytes()[:-3])
    for sources in (SourcesConfig(root=str(tmp_path)), SourcesConfig(dataset=str(tmp_path))):
        with pytest.raises(DataError, match="truncated"):
            list(read_documents(find_slices(sources, 10)[0], sources, Counts()))


def test_a_packed_list_is_refused_and_not_read_as_one_bad_line(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'[{"text": "one"}, {"text": "two"}]'))
    sources = SourcesConfig(dataset=str(tmp_path))
    with pytest.raises(DataError, match=r"a\.json\.gz: holds a list, not an object a line"):
        list(read_documents(find_slices(sources, 10)[0], sources, Counts()))
