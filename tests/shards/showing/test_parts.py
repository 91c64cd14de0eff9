"""Documents of buckets as text, whole and token by token."""

from pathlib import Path

import numpy as np
import pytest

from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.parts import document_part, token_texts

ROWS = Path(__file__).parents[2] / "fixtures/made_by_22bff75/rows"


@pytest.mark.parametrize(
    "text",
    [
        "plain words and  two spaces",
        "ein Übergang, 漢字, 🦙🦙 end",
        " begins with a space",
        "\ufffd and \ufffd",
    ],
)
def test_the_texts_of_the_tokens_are_together_the_text(small_dataset: Path, text: str) -> None:
    tokenizer = TokenDataset(small_dataset).tokenizer
    ids = tokenizer.encode(text, begins=True)
    texts = token_texts(tokenizer, ids)
    assert "".join(texts) == tokenizer.decode(ids) == text
    assert len(ids) // 5 < len(texts) <= len(ids) and len(texts) > 2


def test_a_part_that_begins_or_ends_within_a_character_is_shown(small_dataset: Path) -> None:
    tokenizer = TokenDataset(small_dataset).tokenizer
    ids = tokenizer.encode("a 🦙 b", begins=True)
    for first in range(len(ids)):
        for last in range(first + 1, len(ids) + 1):
            texts = token_texts(tokenizer, ids[first:last])
            assert "".join(texts) == tokenizer.decode(ids[first:last])


def test_the_documents_of_a_bucket_are_those_of_its_source(
    small_dataset: Path, source_texts: dict[str, list[str]]
) -> None:
    dataset = TokenDataset(small_dataset)
    row, tokenizer = dataset.row("wikipedia/00000"), dataset.tokenizer
    parts = [
        document_part(dataset, tokenizer, "wikipedia/00000", document, by_token=document % 9 == 0)
        for document in range(row["documents"])
    ]
    texts = source_texts[row["source"]]
    numbers = [part.number_in_source for part in parts]
    assert [part.text for part in parts] == [texts[n] for n in numbers if n is not None]
    assert sorted(n for n in numbers if n is not None) == list(range(len(texts)))
    held = [part.tokens for part in parts if part.heldout]
    assert 0 < sum(held) == row["tokens"] - row["train_tokens"] and parts[-1].heldout
    for part in parts[::9]:
        assert "".join(run.text for run in part.runs) == part.text
        assert part.tokens // 3 < len(part.runs) < part.tokens


def test_runs_of_a_conversation_are_of_one_supervision() -> None:
    rows = TokenDataset(ROWS)
    (row, *_) = rows.manifest
    name = f"{row['subset']}/{row['bucket']:05}"
    part = document_part(rows, rows.tokenizer, name, 0, by_token=True)
    mask = rows.bucket_mask(name, row["tokens"])[: part.tokens]
    assert part.number_in_source is None and mask.any() and not mask.all()
    shown, was = "", False
    for run in part.runs:
        shown += ("\u27e6" if run.supervised else "\u27e7") * (run.supervised != was) + run.text
        was = run.supervised
    assert shown + "\u27e7" * was == part.text
    assert part.text.count("\u27e6") == np.count_nonzero(np.diff(mask, prepend=0) == 1)
