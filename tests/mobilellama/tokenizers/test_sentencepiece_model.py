"""A sentencepiece model file: what is known of it, and what is refused."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.tokenizers.sentencepiece_model import NORMAL, SentencepieceModel


def test_the_file_tells_its_ids_and_pieces(small_tokenizer: Path) -> None:
    model = SentencepieceModel(small_tokenizer)
    assert (model.unk_id, model.bos_id, model.eos_id) == (0, 1, 2)
    assert [piece.piece for piece in model.proto.pieces[:3]] == ["<unk>", "<s>", "</s>"]
    assert model.vocab_size == len(model.proto.pieces)
    assert model.sha256 == sha256_of_file(small_tokenizer)


def test_what_is_no_model_is_refused_by_its_field(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(ConfigError, match=r"base = .*: is not a file\. Give the path of a"):
        SentencepieceModel(path, field="base")
    path.write_bytes(b"of another kind")
    with pytest.raises(ConfigError, match=r"base = .*: is not a sentencepiece model\. Give this"):
        SentencepieceModel(path, field="base", remedy="Give this")
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"base = .*: is empty\. Give the path of a"):
        SentencepieceModel(path, field="base")


def test_a_model_that_cannot_end_a_text_is_refused(small_tokenizer: Path, tmp_path: Path) -> None:
    proto = SentencepieceModel(small_tokenizer).proto
    proto.pieces[2].type = NORMAL
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(ConfigError, match="has no </s> piece"):
        SentencepieceModel(tmp_path / "tokenizer.model")
