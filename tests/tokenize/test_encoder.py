from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.config import DataError
from mobilellama.tokenize.encoder import Encoder, require_text_ids
from mobilellama.tokenizers.tokenizer import Tokenizer

HOSTILE = [
    "",
    " ",
    "  two  spaces   three \n\n\t tab",
    "\u2581under\u2581\u2581lines \u2581",
    "nul\0inside\0",
    "<0x0A> <s> </s> <unk> <pad>",
    "👩‍👩‍👧‍👦 family 🇫🇷 flag",
    "x" * 5_000,
    " " * 3_000,
    "0123456789" * 20,
    "汉字 العربية हिन्दी e\u0301",
    "\ufeffbom\u00a0nbsp\u2028line\u0085next",
]


def expected_ids(path: Path, text: str) -> list[int]:
    return [*SentencePieceProcessor(model_file=str(path)).encode(text), 2]


def test_a_batch_is_sentencepieces_ids_document_by_document_with_eos(
    small_tokenizer: Path,
) -> None:
    ids, lengths = Encoder(Tokenizer(small_tokenizer)).encode_batch(HOSTILE)
    assert ids.dtype == np.dtype("<u2")
    documents = np.split(ids, np.cumsum(lengths)[:-1])
    for document, text in zip(documents, HOSTILE, strict=True):
        assert document.tolist() == expected_ids(small_tokenizer, text), text[:40]


def test_the_llama_model_gives_sentencepieces_ids(llama_tokenizer: Path) -> None:
    ids, lengths = Encoder(Tokenizer(llama_tokenizer)).encode_batch(HOSTILE)
    for document, text in zip(np.split(ids, np.cumsum(lengths)[:-1]), HOSTILE, strict=True):
        assert document.tolist() == expected_ids(llama_tokenizer, text), text[:40]


def test_special_pieces_spelled_out_in_text_stay_text(small_tokenizer: Path) -> None:
    ids, _ = Encoder(Tokenizer(small_tokenizer)).encode_batch(["a </s> b <s> <unk>"])
    assert (ids[:-1] > 2).all() and ids[-1] == 2


def test_an_empty_batch_is_no_ids(small_tokenizer: Path) -> None:
    ids, lengths = Encoder(Tokenizer(small_tokenizer)).encode_batch([])
    assert (len(ids), len(lengths)) == (0, 0)


@pytest.mark.parametrize("ids", [[5, 2, 7], [0], [3, 9], [9, 1]])
def test_ids_that_no_text_can_have_are_refused(ids: list[int]) -> None:
    from_text = np.array([False] * 3 + [True] * 6)
    require_text_ids(np.array([3, 8]), from_text)
    require_text_ids(np.array([], dtype=np.int32), from_text)
    with pytest.raises(DataError, match=r"text was encoded as ids \[\d"):
        require_text_ids(np.array(ids), from_text)


def test_a_vocabulary_above_uint16_takes_int32(small_tokenizer: Path, tmp_path: Path) -> None:
    proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    proto.ParseFromString(small_tokenizer.read_bytes())
    for i in range(65_501 - len(proto.pieces)):
        proto.pieces.add(piece=f"\ue000{i}", score=-1e6 - i)
    path = tmp_path / "large.model"
    path.write_bytes(proto.SerializeToString())
    ids, _ = Encoder(Tokenizer(path)).encode_batch(["plain text"])
    assert ids.dtype == np.dtype("<i4")
    assert ids.tolist() == expected_ids(small_tokenizer, "plain text")
