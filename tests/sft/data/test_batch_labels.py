from pathlib import Path

import numpy as np
import pytest

from mobilellama.sft.data import batch_labels
from mobilellama.sft.data.batch_labels import BatchLabels
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode
from mobilellama.sft.data.template import Template, read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.hostile_texts import hostile_texts

TEXTS = [text for text in hostile_texts(600) if text.strip()] + ["long " * 200, "</s> and <s>"]


def conversations() -> list[list[Turn]]:
    """Return conversations of one to six exchanges, with and without a system text."""
    made, i = [], 0
    while i < len(TEXTS):
        turns = [Turn(role="system", content=TEXTS[i])] if i % 3 == 0 else []
        for _ in range(1 + i % 6):
            turns.append(Turn(role="user", content=TEXTS[i % len(TEXTS)]))
            answer, learnt = TEXTS[(i + 1) % len(TEXTS)], i % 5 != 0
            turns.append(Turn(role="assistant", content=answer, learnt=learnt))
            i += 2
        made.append(turns)
    return made


def require_same(template: Template, tokenizer: TextTokenizer) -> BatchLabels:
    labels, given = BatchLabels(template, tokenizer), conversations()
    for found, turns in zip(labels.encode(given), given, strict=True):
        expected = encode(template, tokenizer, turns)
        assert found.ids.dtype == expected.ids.dtype
        assert np.array_equal(found.ids, expected.ids), turns
        assert np.array_equal(found.supervised, expected.supervised), turns
    assert labels.encode([]) == []
    return labels


@pytest.mark.parametrize("name", ["vicuna_v1", "mistral"])
@pytest.mark.parametrize("plain_characters", [0, 1 << 30])
def test_a_batch_has_the_ids_and_labels_of_its_conversations_one_by_one(
    name: str, plain_characters: int, llama_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_labels, "_PLAIN_CHARACTERS", plain_characters)
    labels = require_same(read_template(name), Tokenizer(llama_tokenizer))
    assert (labels._encoder is not None) is (plain_characters == 0)


def test_a_tokenizer_that_is_no_sentencepiece_model_encodes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_labels, "_PLAIN_CHARACTERS", 0)
    specials = ["<|im_start|>", "<|im_end|>"]
    folder = write_tokenizer(
        tmp_path / "tokenizer", "byte_level_lines", specials=specials, eos="<|endoftext|>"
    )
    tokenizer = open_tokenizer(folder)
    assert require_same(read_template("chatml"), tokenizer)._encoder is None
