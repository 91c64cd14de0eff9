"""The libraries that an audit encodes with, on datasets of both kinds of tokenizer."""

import shutil
from pathlib import Path

import pytest
import sentencepiece

from mobilellama.config import DataError
from mobilellama.shards.audit.library import library_encoder
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from tests.helpers.changed_sources import make_corpus, run
from tests.helpers.corpus_tokenizers import SPELLED, write_qwen
from tests.helpers.hostile_texts import hostile_texts

TEXTS = [*SPELLED, *hostile_texts(100)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a tokenizer.json whose end of documents is not marked special."""
    folder = tmp_path_factory.mktemp("audited")
    tokenizer, output = write_qwen(folder / "qwen"), folder / "out"
    assert run(make_corpus(folder / "root"), tokenizer, output, "--eos_token", "<tool_call>") == 0
    return output


def test_sentencepiece_encodes_for_its_model(small_dataset: Path, small_tokenizer: Path) -> None:
    name, encode = library_encoder(TokenDataset(small_dataset))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(small_tokenizer))
    assert name == "sentencepiece"
    assert [encode(text) for text in TEXTS] == [processor.encode(text) for text in TEXTS]


def test_tokenizers_encodes_for_a_json_and_special_tokens_stay_text(dataset: Path) -> None:
    name, encode = library_encoder(TokenDataset(dataset))
    ours = HfTokenizer(dataset / "tokenizer")
    assert name == "tokenizers" and ours.eos_token == "<tool_call>"
    for text in [*TEXTS, "a<tool_call>b"]:
        ids = encode(text)
        assert ids == ours.encode(text, begins=True)
        assert ours.eos_id not in ids


def test_a_file_that_is_not_the_datasets_is_named(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    opened = TokenDataset(copy)
    (copy / "tokenizer/tokenizer_config.json").write_text("[]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: is damaged\. Restore it from a "):
        library_encoder(opened)
    (copy / "tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"json: missing, or not the tokenizer\.json that the data"):
        library_encoder(opened)
