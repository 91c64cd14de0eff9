"""Records become batches of texts; bad, empty and odd ones are counted."""

import json
from pathlib import Path

from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from tests.tokenize.conftest import GOOD, corpus, read


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


def test_batches_are_bounded_and_in_order(tmp_path: Path) -> None:
    values = [f"{i} " * 1000 for i in range(2000)]
    corpus(tmp_path, b"".join(json.dumps({"text": v}).encode() + b"\n" for v in values))
    sources = SourcesConfig(root=str(tmp_path))
    (slice_,) = find_slices(sources, 1 << 30)
    batches = list(read_documents(slice_, sources, Counts()))
    assert [text for batch in batches for text in batch] == values
    assert max(sum(map(len, batch)) for batch in batches) < (1 << 20) + 10_000
