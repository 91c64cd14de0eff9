from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilellama.tokenize.encoding import fast_encoding
from mobilellama.tokenize.encoding.cuts import find_obstacle
from mobilellama.tokenize.encoding.fast_encoding import FastEncoding
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.tokenize.encoding.conftest import HOSTILE, normal_texts, random_texts


def require_same(tokenizer: Tokenizer, texts: list[str], **options: int) -> FastEncoding:
    """Compare each document's ids with those of sentencepiece; return the encoding."""
    assert find_obstacle(tokenizer) is None
    encoding = FastEncoding(tokenizer, **options)
    for _ in range(2):  # the second time from the memo
        ids, lengths = encoding.encode(texts)
        documents = np.split(ids, np.cumsum(lengths)[:-1])
        for document, text in zip(documents, texts, strict=True):
            assert document.tolist() == [*tokenizer.processor.encode(text), 2], text[:200]
    return encoding


def test_hostile_and_random_texts_have_sentencepieces_ids(small_tokenizer: Path) -> None:
    texts = HOSTILE + random_texts(normal_texts(small_tokenizer), 1_500, seed=1)
    require_same(Tokenizer(small_tokenizer), texts)


def test_hostile_and_random_texts_have_the_ids_of_llamas_model(llama_tokenizer: Path) -> None:
    texts = HOSTILE + random_texts(normal_texts(llama_tokenizer), 1_500, seed=2)
    require_same(Tokenizer(llama_tokenizer), texts)


@pytest.mark.parametrize(
    "settings",
    [
        {"split_digits": False, "split_by_number": False},
        {"add_dummy_prefix": False},
        {"split_by_whitespace": False},  # pieces go across spaces: few cuts, long units
        {"split_by_unicode_script": False, "allow_whitespace_only_pieces": False},
    ],
)
def test_models_of_other_settings_have_sentencepieces_ids(
    settings: dict[str, object], train: Callable[..., Path]
) -> None:
    path = train(**settings)
    require_same(Tokenizer(path), HOSTILE + random_texts(normal_texts(path), 400, seed=3))


def test_a_huge_document_leaves_no_memory_behind(
    small_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_encoding, "_KEPT_IDS", 1_000)
    encoding = require_same(Tokenizer(small_tokenizer), ["a text", "of words " * 1_000, "a text"])
    assert len(encoding._out) == 0
    encoding.encode(["a text"])
    assert 0 < len(encoding._out) <= 1_000


def test_of_equal_scores_the_leftmost_is_joined_first(changed: Callable[..., Tokenizer]) -> None:
    def level(proto: Any) -> None:
        for piece in proto.pieces:
            piece.score = float(len(piece.piece) % 2)

    tokenizer = changed(level)
    texts = random_texts([piece.piece for piece in tokenizer.proto.pieces], 500, seed=4)
    require_same(tokenizer, [*texts, "aaaaa", "    x", "eeee" * 20])


def test_a_memo_that_overflows_all_the_time_gives_the_same_ids_in_the_same_memory(
    small_tokenizer: Path,
) -> None:
    texts = HOSTILE + random_texts(normal_texts(small_tokenizer), 1_500, seed=5)
    tokenizer = Tokenizer(small_tokenizer)
    encoding = require_same(tokenizer, texts, memo_bytes=1 << 14)
    memo = encoding.memo
    assert memo.total_bytes <= (1 << 14) + 64
    # Both rings have been written over more than once.
    assert memo.counts[0] > 2 * len(memo.keys) and memo.counts[1] > 2 * len(memo.ids)
    assert memo.counts[2] > 4 * len(memo.table)


def test_a_text_that_came_before_is_not_merged_again(small_tokenizer: Path) -> None:
    encoding = FastEncoding(Tokenizer(small_tokenizer))
    texts = random_texts(normal_texts(small_tokenizer), 200, seed=6)
    encoding.encode(texts)
    merged = int(encoding.memo.counts[2])
    encoding.encode(texts)
    assert merged > 1_000 and int(encoding.memo.counts[2]) == merged


def test_no_text_and_texts_of_nothing_have_only_ends(small_tokenizer: Path) -> None:
    encoding = FastEncoding(Tokenizer(small_tokenizer))
    ids, lengths = encoding.encode([])
    assert (len(ids), len(lengths)) == (0, 0)
    ids, lengths = encoding.encode(["", "", ""])
    assert ids.tolist() == [2, 2, 2] and lengths.tolist() == [1, 1, 1]
