import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentencepiece import SentencePieceProcessor

from mobilellama.config import DataError
from mobilellama.files.atomic import read_json, sha256_of_file
from mobilellama.shards.dataset import Identity, Plan
from mobilellama.shards.permute import Permutation
from mobilellama.tokenize.bucket import Work, train_tokens, write_bucket
from mobilellama.tokenize.bucket_files import is_finished
from mobilellama.tokenize.encoding.encoder import ENCODER_VERSION, Encoder
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.tokenizer import Tokenizer


def read_megatron(stem: Path) -> list[list[int]]:
    """Read a bucket as Megatron-LM's format says, with nothing but struct."""
    index, data = stem.with_suffix(".idx").read_bytes(), stem.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    assert (version, documents) == (1, sequences + 1)
    width, letter = {8: (2, "H"), 4: (4, "i")}[code]
    at = 9 + 8 + 1 + 8 + 8
    lengths = struct.unpack_from(f"<{sequences}i", index, at)
    pointers = struct.unpack_from(f"<{sequences}q", index, at + 4 * sequences)
    indices = struct.unpack_from(f"<{documents}q", index, at + 12 * sequences)
    assert len(index) == at + 12 * sequences + 8 * documents
    assert indices == tuple(range(documents))
    assert len(data) == width * sum(lengths)
    return [
        list(struct.unpack_from(f"<{length}{letter}", data, pointer))
        for length, pointer in zip(lengths, pointers, strict=True)
    ]


def texts_by_slice(root: Path, plan: Plan) -> dict[str, list[str]]:
    """Return each bucket's kept texts in source order, read record by record with json."""
    sources = SourcesConfig(root=str(root))
    return {
        slice_.name: [text for batch in read_documents(slice_, sources, Counts()) for text in batch]
        for slice_ in plan.slices
    }


def assert_buckets_hold_sentencepieces_ids(root: Path, dataset: Path, model: Path) -> int:
    """Compare every document of every bucket; return how many there were."""
    plan = Plan.read(dataset)
    processor = SentencePieceProcessor(model_file=str(model))
    compared = 0
    for slice_ in plan.slices:
        texts = texts_by_slice(root, Plan(identity=plan.identity, slices=(slice_,)))[slice_.name]
        stored = read_megatron(dataset / slice_.name)
        assert len(stored) == len(texts)
        key = (plan.identity.seed, slice_.subset, slice_.bucket)
        order = Permutation(len(texts), *key)(np.arange(len(texts)))
        for position, document in enumerate(order):
            assert stored[position] == [*processor.encode(texts[document]), 2]
        compared += len(stored)
    return compared


def test_buckets_are_megatrons_format_with_sentencepieces_ids_in_the_permuted_order(
    small_corpus: Path, small_dataset: Path, small_tokenizer: Path
) -> None:
    compared = assert_buckets_hold_sentencepieces_ids(small_corpus, small_dataset, small_tokenizer)
    assert compared > 500


@pytest.mark.slow
def test_the_redpajama_sample_has_sentencepieces_ids_document_by_document(
    redpajama_sample: Path, llama_dataset: Path, llama_tokenizer: Path
) -> None:
    compared = assert_buckets_hold_sentencepieces_ids(
        redpajama_sample, llama_dataset, llama_tokenizer
    )
    assert compared == 28_446


def test_the_order_is_shuffled_and_differs_between_buckets(small_dataset: Path) -> None:
    first, second = (read_megatron(small_dataset / f"github/0000{i}") for i in (0, 1))
    n = len(first)
    order = Permutation(n, 1337, "github", 0)(np.arange(n)).tolist()
    assert order != sorted(order)
    assert order != Permutation(n, 1337, "github", 1)(np.arange(n)).tolist()
    assert len(second) > 0


def test_the_receipt_counts_what_is_in_the_files(small_corpus: Path, small_dataset: Path) -> None:
    plan = Plan.read(small_dataset)
    texts = texts_by_slice(small_corpus, plan)
    for slice_ in plan.slices:
        stem = small_dataset / slice_.name
        receipt, documents = read_json(stem.with_suffix(".json")), read_megatron(stem)
        assert receipt["documents"] == len(documents) == receipt["records"]
        assert receipt["tokens"] == sum(map(len, documents))
        assert receipt["bytes_in"] == sum(len(text.encode()) for text in texts[slice_.name])
        for ending in ("bin", "idx"):
            assert receipt["sha256"][ending] == sha256_of_file(stem.with_suffix(f".{ending}"))


@pytest.mark.parametrize(
    ("lengths", "share", "expected"),
    [
        ([10, 10, 10, 10], 0.0, 40),  # nothing held out
        ([10, 10, 10, 10], 0.25, 30),  # target 30: exactly a boundary
        ([10, 10, 10, 10], 0.20, 30),  # target 32, nearer to 30 than to 40
        ([10, 10, 10, 10], 0.10, 40),  # target 36, nearer to 40
        ([10, 10, 10, 10], 0.125, 40),  # target 35, as near to 30: the later one
        ([100, 1, 1], 0.9, 100),  # target 10.2, but never 0 train tokens
        ([7], 0.5, 7),  # one document is all for training
        ([], 0.5, 0),
        ([3] * 1000, 0.3, 2100),  # target 2100.0000000000005 in floats
        ([1] * 10, 0.7, 3),
    ],
)
def test_heldout_documents_begin_at_the_nearest_boundary(
    lengths: list[int], share: float, expected: int
) -> None:
    assert train_tokens(np.array(lengths, dtype=np.int64), share) == expected


def make_work(folder: Path, root: Path, model: Path) -> tuple[Work, Encoder]:
    tokenizer = Tokenizer(model)
    identity = Identity(
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        eos_id=2,
        dtype="uint16",
        seed=1,
        slice_bytes=1 << 30,
        heldout_share=0.1,
        encoder_version=ENCODER_VERSION,
    )
    work = Work(
        folder=folder,
        identity=identity,
        sources=SourcesConfig(root=str(root)),
        max_bad_share=0.001,
    )
    return work, Encoder(tokenizer)


def place(root: Path, texts: list[str]) -> None:
    (root / "c4").mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (root / "c4" / "a.jsonl").write_text("".join(lines))


def test_documents_larger_than_a_block_are_gathered_whole(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    """A block holds about 2**20 tokens; these documents come to four of them."""
    texts = ["a b " * 400_000, "small", "c d " * 300_000, *["e f " * 2_000] * 300, "", "last"]
    place(tmp_path / "corpus", texts)
    (tmp_path / "out").mkdir()
    work, encoder = make_work(tmp_path / "out", tmp_path / "corpus", small_tokenizer)
    (slice_,) = find_slices(work.sources, 1 << 30)
    write_bucket(work, slice_, encoder, lambda *_: None)
    kept = [text for text in texts if text]
    order = Permutation(len(kept), 1, "c4", 0)(np.arange(len(kept)))
    processor = SentencePieceProcessor(model_file=str(small_tokenizer))
    stored = read_megatron(tmp_path / "out/c4/00000")
    cache: dict[str, list[int]] = {}
    for position, document in enumerate(order):
        text = kept[document]
        cache.setdefault(text, [*processor.encode(text), 2])
        assert stored[position] == cache[text]


def test_a_source_without_text_makes_an_empty_bucket(tmp_path: Path, small_tokenizer: Path) -> None:
    place(tmp_path / "corpus", ["", ""])
    (tmp_path / "out").mkdir()
    work, encoder = make_work(tmp_path / "out", tmp_path / "corpus", small_tokenizer)
    (slice_,) = find_slices(work.sources, 1 << 30)
    write_bucket(work, slice_, encoder, lambda *_: None)
    assert read_megatron(tmp_path / "out/c4/00000") == []
    receipt = read_json(tmp_path / "out/c4/00000.json")
    assert (receipt["documents"], receipt["train_tokens"], receipt["empty_texts"]) == (0, 0, 2)


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_a_bucket_with_a_receipt_is_left_alone_and_one_without_its_whole_files_is_rebuilt(
    ending: str, tmp_path: Path, small_tokenizer: Path
) -> None:
    place(tmp_path / "corpus", ["one", "two", "three"])
    (tmp_path / "out").mkdir()
    work, encoder = make_work(tmp_path / "out", tmp_path / "corpus", small_tokenizer)
    (slice_,) = find_slices(work.sources, 1 << 30)
    write_bucket(work, slice_, encoder, lambda *_: None)
    path = tmp_path / f"out/c4/00000.{ending}"
    whole, written = path.read_bytes(), path.stat().st_mtime_ns
    write_bucket(work, slice_, encoder, lambda *_: None)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(whole[:-2])
    assert not is_finished(work.folder, slice_, work.identity)
    write_bucket(work, slice_, encoder, lambda *_: None)
    assert path.read_bytes() == whole
    path.unlink()
    assert not is_finished(work.folder, slice_, work.identity)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["line", "text of a table", "text file"])
def test_a_record_that_is_too_long_fails_its_slice_unless_it_is_to_be_left_out(
    tmp_path: Path, small_tokenizer: Path, kind: str
) -> None:
    """Alone in its slice, where it is fewer than the ten bad records that are let pass."""
    long = "a " * (1 << 25) + "b"
    corpus = tmp_path / "corpus"
    (corpus / "c4").mkdir(parents=True)
    sources = SourcesConfig(dataset=str(corpus / "c4"))
    if kind == "line":
        (corpus / "c4/a.jsonl").write_text(json.dumps({"text": long}) + "\n")
        sources = SourcesConfig(root=str(corpus))
    elif kind == "text file":
        (corpus / "c4/a.txt").write_text(long)
    else:
        pq.write_table(pa.table({"text": [long]}), corpus / "c4/a.parquet")
    (slice_,) = find_slices(sources, 1 << 30)
    for skip_long in (False, True):
        output = tmp_path / f"{skip_long}"
        output.mkdir()
        made, encoder = make_work(output, corpus, small_tokenizer)
        identity = replace(made.identity, long_records="skip" if skip_long else "fail")
        work = replace(made, sources=sources, identity=identity)
        if skip_long:
            write_bucket(work, slice_, encoder, lambda *_: None)
            receipt = read_json(output / f"{slice_.name}.json")
            assert (receipt["records"], receipt["bad_records"], receipt["documents"]) == (1, 1, 0)
        else:
            with pytest.raises(DataError, match=r"67,108,864.* --long_records skip"):
                write_bucket(work, slice_, encoder, lambda *_: None)
            assert not [path for path in output.rglob("*") if path.is_file()]


def test_a_failing_slice_leaves_no_file(tmp_path: Path, small_tokenizer: Path) -> None:
    place(tmp_path / "corpus", ["one"])
    (tmp_path / "out").mkdir()
    work, encoder = make_work(tmp_path / "out", tmp_path / "corpus", small_tokenizer)
    (slice_,) = find_slices(work.sources, 1 << 30)

    def fail(*_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write_bucket(work, slice_, encoder, fail)
    assert list((tmp_path / "out/c4").iterdir()) == []
