from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.encoding.spot_check import CHECK_EVERY, SpotCheck
from mobilellama.tokenizers.tokenizer import Tokenizer

TEXTS = [f"text {i}" for i in range(2 * CHECK_EVERY + 10)]


def slice_of(bucket: int) -> Slice:
    return Slice(
        subset="c4", bucket=bucket, source="c4/a.jsonl", size=9, start=0, end=9, unit="bytes"
    )


def refused(path: Path, bucket: int, wrong: int, batches: int) -> str | None:
    """Check TEXTS in batches, one document's ids wrong; return the message, None: not seen."""
    tokenizer = Tokenizer(path)
    encoder, check = Encoder(tokenizer), SpotCheck(tokenizer, slice_of(bucket))
    size = -(-len(TEXTS) // batches)
    for start in range(0, len(TEXTS), size):
        texts = TEXTS[start : start + size]
        ids, lengths = encoder.encode_batch(texts)
        if start <= wrong < start + size:
            ids[int(np.cumsum(lengths)[wrong - start]) - 2] += 1  # the last before its EOS
        try:
            check.check(texts, ids, lengths)
        except DataError as error:
            return str(error)
    return None


@pytest.mark.parametrize("batches", [1, 7])
@pytest.mark.parametrize(
    ("bucket", "checked"),
    [(0, [0, 2_000, 4_000]), (1, [1_999, 3_999]), (1_995, [5, 2_005, 4_005]), (2_000, [0])],
)
def test_one_document_in_2000_is_checked_whatever_the_batches(
    bucket: int, checked: list[int], batches: int, small_tokenizer: Path
) -> None:
    for number in checked:
        assert refused(small_tokenizer, bucket, number, batches) is not None
    for number in (1, 1_998, 4_009):
        assert refused(small_tokenizer, bucket, number, batches) is None


def test_a_difference_names_the_document_the_token_and_the_remedy(small_tokenizer: Path) -> None:
    message = refused(small_tokenizer, 3, 3_997, 7) or ""
    assert message.startswith(
        "c4/a.jsonl: document 3,997 of bucket c4/00003 (from 0, as the source has them), "
        "'text 3997', was encoded wrongly: token "
    )
    assert "--encoder sentencepiece" in message


def test_missing_and_surplus_ids_are_differences(small_tokenizer: Path) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    ids, lengths = Encoder(tokenizer).encode_batch(["some text"])
    for wrong in (np.delete(ids, 0), np.insert(ids, len(ids) - 1, 5)):
        with pytest.raises(DataError, match="was encoded wrongly"):
            SpotCheck(tokenizer, slice_of(0)).check(["some text"], wrong, lengths * 0 + len(wrong))
