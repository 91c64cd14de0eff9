from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.config import DataError
from mobilellama.tokenize.encoding.encoder import Encoder, require_text_ids, why_plain
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.tokenize.encoding.conftest import HOSTILE, Train, normal_texts, random_texts


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


def test_real_text_of_every_subset_has_sentencepieces_ids(
    redpajama_sample: Path, llama_tokenizer: Path
) -> None:
    sources = SourcesConfig(root=str(redpajama_sample))
    tokenizer = Tokenizer(llama_tokenizer)
    fast, plain = Encoder(tokenizer), Encoder(tokenizer, plain=True)
    subsets = set()
    for slice_ in find_slices(sources, 1 << 30):
        if slice_.subset not in subsets:
            subsets.add(slice_.subset)
            texts = [text[:20_000] for text in next(read_documents(slice_, sources, Counts()))][:50]
            for found, expected in zip(
                fast.encode_batch(texts), plain.encode_batch(texts), strict=True
            ):
                assert found.dtype == expected.dtype
                assert np.array_equal(found, expected), slice_.source
    assert len(subsets) == 7


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "its normaliser changes characters"),
        ({"byte_fallback": False}, "it has no byte fallback"),
        ({"remove_extra_whitespaces": True}, "it removes extra spaces"),
        ({"user_defined_symbols": ["<x>", "def "]}, "it has user-defined or unused pieces"),
    ],
)
def test_a_model_that_cannot_be_cut_is_encoded_by_sentencepiece(
    settings: dict[str, object], reason: str, train: Train
) -> None:
    path = train(**settings)
    encoder = Encoder(tokenizer := Tokenizer(path))
    assert why_plain(tokenizer) == reason and not encoder.is_fast
    texts = HOSTILE + random_texts(normal_texts(path), 50, seed=21)
    ids, lengths = encoder.encode_batch(texts)
    for document, text in zip(np.split(ids, np.cumsum(lengths)[:-1]), texts, strict=True):
        assert document.tolist() == expected_ids(path, text)


def test_numbas_switch_is_a_reason_to_leave_encoding_to_sentencepiece(
    small_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    assert Encoder(tokenizer).is_fast
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert why_plain(tokenizer) == "NUMBA_DISABLE_JIT is set"
    assert not Encoder(tokenizer).is_fast


def test_an_id_of_no_text_is_refused_on_the_fast_path_too(small_tokenizer: Path) -> None:
    for wrong in (0, 1, 2, 800, 65_536):
        encoder = Encoder(Tokenizer(small_tokenizer))
        assert encoder._fast is not None
        encoder._fast._merges.byte_ids[0xF4] = wrong
        encoder.encode_batch(["well", "\U0001f600"])
        with pytest.raises(DataError, match=rf"text was encoded as ids \[{wrong}\]"):
            encoder.encode_batch(["well", "\U0010ffff"])


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
