"""Tokenizers of different kinds: alike where made of one model, told apart where not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.same_ids import same_ids
from mobilellama.tokenizers.sentencepiece_model import CONTROL
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def model(small_tokenizer: Path) -> Tokenizer:
    """The model trained on the small corpus."""
    return Tokenizer(small_tokenizer)


def converted(tokenizer: Tokenizer, folder: Path, change: Change | None = None) -> HfTokenizer:
    """Write the model's tokenizer.json, changed perhaps, and open that."""
    folder.mkdir()
    tokenizer.write_hf(folder, max_length_tokens=64, add_bos=True)
    path = folder / "tokenizer.json"
    if change:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    return HfTokenizer(path)


def retrained(tokenizer: Tokenizer, path: Path, change: Callable[[Any], object]) -> Tokenizer:
    """Write the sentencepiece model with something changed, and open that."""
    proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    proto.ParseFromString(tokenizer.model_bytes)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return Tokenizer(path)


def are_same(a: TextTokenizer, b: TextTokenizer) -> bool:
    """Ask in both orders, which must agree."""
    assert same_ids(a, b) == same_ids(b, a)
    return same_ids(a, b)


@pytest.mark.parametrize("name", ["small_tokenizer", "llama_tokenizer"])
def test_a_model_and_its_own_tokenizer_json_are_the_same(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = Tokenizer(request.getfixturevalue(name))
    json_kind = converted(model, tmp_path / "hf")
    assert json_kind.sha256 != model.sha256
    assert are_same(model, json_kind)
    assert are_same(model, Tokenizer(model.path))
    assert are_same(json_kind, HfTokenizer(json_kind.path))


def test_another_way_of_padding_makes_no_other_tokenizer(model: Tokenizer, tmp_path: Path) -> None:
    folder = converted(model, tmp_path / "hf").path.parent
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "</s>"}))
    other = HfTokenizer(folder)
    assert other.pad_id != model.pad_id
    assert are_same(model, other)


def test_models_of_the_same_size_with_other_pieces_are_not(
    model: Tokenizer, tmp_path: Path
) -> None:
    def rotate(proto: Any) -> None:
        """Give each piece the id of the next, as another order of training would."""
        names = [piece.piece for piece in proto.pieces[300:]]
        for piece, name in zip(proto.pieces[300:], names[1:] + names[:1], strict=True):
            piece.piece = name

    other = retrained(model, tmp_path / "other.model", rotate)
    assert other.vocab_size == model.vocab_size
    assert not are_same(model, other)
    assert not are_same(converted(model, tmp_path / "hf"), other)


def test_a_real_llama_and_another_model_are_not(
    model: Tokenizer, llama_tokenizer: Path, tmp_path: Path
) -> None:
    llama = Tokenizer(llama_tokenizer)
    assert not are_same(model, llama)
    assert not are_same(converted(model, tmp_path / "hf"), llama)


def test_a_tokenizer_of_another_family_is_not(model: Tokenizer, tmp_path: Path) -> None:
    for kind in ("byte_level", "prepend"):
        other = HfTokenizer(write_tokenizer(tmp_path / kind, kind, bos="<s>", eos="</s>"))
        assert not are_same(model, other)


def swap_pieces(value: dict[str, Any]) -> None:
    """Give two letters each other's ids."""
    pieces = value["model"]["vocab"]
    pieces["a"], pieces["e"] = pieces["e"], pieces["a"]


def merge_in_order_of_ids(value: dict[str, Any]) -> None:
    """Order merges by the id of what they make, as transformers' conversions do."""
    pieces = value["model"]["vocab"]
    value["model"]["merges"].sort(key=lambda merge: (pieces["".join(merge)], -len(merge[0])))


def leave_out_the_space_before_a_text(value: dict[str, Any]) -> None:
    value["normalizer"]["normalizers"].pop(0)


def add_a_token(value: dict[str, Any]) -> None:
    last = value["added_tokens"][-1]
    value["added_tokens"].append(last | {"id": len(value["model"]["vocab"]), "content": "<pad>"})


def make_a_piece_special(value: dict[str, Any]) -> None:
    token = value["added_tokens"][-1]
    value["added_tokens"].append(token | {"id": value["model"]["vocab"]["q"], "content": "q"})


@pytest.mark.parametrize(
    "change",
    [swap_pieces, leave_out_the_space_before_a_text, add_a_token, make_a_piece_special],
)
def test_one_difference_is_enough(model: Tokenizer, tmp_path: Path, change: Change) -> None:
    assert not are_same(model, converted(model, tmp_path / "hf", change))


def test_merges_in_the_order_of_ids_are_told_by_runs_of_spaces_alone(
    llama_tokenizer: Path, tmp_path: Path
) -> None:
    llama = Tokenizer(llama_tokenizer)
    other = converted(llama, tmp_path / "hf", merge_in_order_of_ids)
    for text in ("The capital of France is Paris.", "def f(x): return x\n", "naïve 日本語 🙂"):
        assert other.encode(text, begins=True) == llama.encode(text, begins=True)
    assert not are_same(llama, other)


@pytest.mark.parametrize("names", [{"bos_token": None}, {"eos_token": "<unk>"}])
def test_another_begin_or_end_of_a_text_is_a_difference(
    model: Tokenizer, tmp_path: Path, names: dict[str, Any]
) -> None:
    folder = converted(model, tmp_path / "hf").path.parent
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | names))
    assert not are_same(model, HfTokenizer(folder))


def test_a_control_piece_more_is_a_difference(model: Tokenizer, tmp_path: Path) -> None:
    other = retrained(
        model, tmp_path / "t.model", lambda proto: setattr(proto.pieces[700], "type", CONTROL)
    )
    assert not are_same(model, other)
