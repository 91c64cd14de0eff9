"""Documents of a source are found in their bucket by arithmetic, and every difference is seen."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from mobilellama.shards.audit.comparison import BucketAudit, compare_bucket
from mobilellama.shards.dataset import Plan
from mobilellama.shards.format import read_index, write_index
from mobilellama.shards.reader import TokenDataset


@pytest.fixture
def copy(small_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_dataset, tmp_path / "copy"))


def compare(
    folder: Path, corpus: Path, name: str = "wikipedia/00000", *drawn: int
) -> tuple[BucketAudit, int]:
    """Compare documents of a bucket, by default all; return also how much was said to be read."""
    dataset = TokenDataset(folder)
    [slice_] = [one for one in Plan.read(folder).slices if one.name == name]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    read: list[int] = []
    audit = compare_bucket(
        dataset,
        slice_,
        str(corpus),
        drawn or range(dataset.row(name)["documents"]),
        lambda text: processor.encode(text),
        read.append,
    )
    assert sum(read) == slice_.end - slice_.start
    return audit, len(read)


@pytest.mark.parametrize("name", ["wikipedia/00000", "common_crawl/00001", "github/00000"])
def test_every_document_of_a_good_bucket_is_equal(
    name: str, small_dataset: Path, small_corpus: Path
) -> None:
    audit, _ = compare(small_dataset, small_corpus, name)
    assert audit.compared == TokenDataset(small_dataset).row(name)["documents"]
    assert (audit.mismatches, dict(audit.skipped)) == ([], {})


def test_the_source_is_read_to_the_last_drawn_document_and_no_further(
    small_dataset: Path, small_corpus: Path
) -> None:
    audit, records = compare(small_dataset, small_corpus, "wikipedia/00000", 2, 7)
    assert (audit.compared, audit.mismatches) == (2, [])
    assert records == 8 + 1  # documents 0 to 7, and what is left


def test_a_flipped_id_is_named_with_its_place(copy: Path, small_corpus: Path) -> None:
    start, length = read_index(copy / "wikipedia/00000.idx").span(3)
    ids = np.fromfile(copy / "wikipedia/00000.bin", "<u2")
    ids[start + 1] ^= 1
    ids.tofile(copy / "wikipedia/00000.bin")
    [mismatch] = compare(copy, small_corpus)[0].mismatches
    assert (mismatch.bucket, mismatch.document) == ("wikipedia/00000", 3)
    right = int(ids[start + 1]) ^ 1
    assert mismatch.fault == (
        f"id 1 is {ids[start + 1]}, expected {right} ({length:,} ids, expected {length:,})"
    )
    ids[start + 1] ^= 1
    ids[start + length - 1] = 5
    ids.tofile(copy / "wikipedia/00000.bin")
    [mismatch] = compare(copy, small_corpus)[0].mismatches
    assert mismatch.fault.startswith(f"id {length - 1:,} is 5, expected 2 (")


def test_two_documents_that_changed_places_are_both_found(copy: Path, small_corpus: Path) -> None:
    index = read_index(copy / "wikipedia/00000.idx")
    ids = np.fromfile(copy / "wikipedia/00000.bin", "<u2")
    documents = [ids[a : a + n] for a, n in map(index.span, range(len(index.lengths)))]
    documents[1], documents[4] = documents[4], documents[1]
    np.concatenate(documents).tofile(copy / "wikipedia/00000.bin")
    with open(copy / "wikipedia/00000.idx", "wb") as file:
        write_index(file, np.array([len(one) for one in documents]), "uint16")
    audit, _ = compare(copy, small_corpus)
    assert sorted(one.document for one in audit.mismatches if one.document is not None) == [1, 4]


def test_a_changed_letter_of_the_source_is_named_with_its_line(
    small_dataset: Path, small_corpus: Path, tmp_path: Path
) -> None:
    corpus = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    path = corpus / "wikipedia/wiki.jsonl"
    data = bytearray(path.read_bytes())
    starts = [0, *(i + 1 for i, byte in enumerate(data) if byte == ord("\n"))]
    data[starts[5] + len('{"text": "')] ^= 1
    path.write_bytes(data)
    [mismatch] = compare(small_dataset, corpus)[0].mismatches
    assert mismatch.source == f"wikipedia/wiki.jsonl, line 6 (byte {starts[5]:,})"


@pytest.mark.parametrize("drawn", [(), (6,)], ids=["all drawn", "one drawn"])
def test_a_document_too_many_in_the_source_is_told_by_its_number(
    drawn: tuple[int, ...], copy: Path, small_corpus: Path
) -> None:
    """The bucket lacks its last document. Most others stay where they were."""
    lengths = np.array(read_index(copy / "wikipedia/00000.idx").lengths)
    with open(copy / "wikipedia/00000.idx", "wb") as file:
        write_index(file, lengths[:-1], "uint16")
    audit, _ = compare(copy, small_corpus, "wikipedia/00000", *drawn)
    count = len(lengths)
    assert [one.fault for one in audit.mismatches if one.document is None][:2] == [
        f"{count:,} documents, but the bucket has {count - 1:,}",
        f"{count - 1:,} documents in the .idx, but {count:,} in the manifest",
    ]


def test_a_document_too_few_in_the_source_is_told_by_its_number(
    small_dataset: Path, small_corpus: Path, tmp_path: Path
) -> None:
    corpus = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    path = corpus / "wikipedia/wiki.jsonl"
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + last.replace(b'"text"', b'"tixt"', 1))
    audit, _ = compare(small_dataset, corpus)
    count = len(lines) + 1
    [mismatch] = audit.mismatches
    assert mismatch.fault == f"{count - 1:,} documents, but the bucket has {count:,}"
    assert audit.skipped == {"no text": 1}
