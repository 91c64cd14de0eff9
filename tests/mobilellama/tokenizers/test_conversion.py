"""A tokenizer.json that transformers 5 made of a sentencepiece model gives other ids."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as FastTokenizer

from mobilellama.tokenizers.conversion import find_fault
from mobilellama.tokenizers.exact_tokenizer import load_exact_tokenizer
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.opening import WrongIdsError, open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.saved_tokenizers import save_again
from tests.mobilellama.tokenizers.conftest import (
    require_ids_of,
)


def test_the_file_alone_gives_other_ids(saved: Path, spaces_last: Path) -> None:
    model, file = Tokenizer(spaces_last), HfTokenizer(saved)
    text = "def f(x):\n    return x"
    assert file.encode(text, begins=True) != model.encode(text, begins=True)


def test_llamas_own_is_corrected_without_the_model(llama_tokenizer: Path, tmp_path: Path) -> None:
    base = save_again(llama_tokenizer, tmp_path)
    opened = open_tokenizer(base)
    require_ids_of(opened, llama_tokenizer)
    assert opened.encode("def f(x):\n    return x", begins=True)[-3:] == [1678, 736, 921]
    assert opened.encode("  lead", begins=True) == [259, 3275]
    exact = load_exact_tokenizer(base)
    assert exact("  lead", add_special_tokens=False).input_ids == [259, 3275]
    (base / "model.safetensors").write_bytes(b"")
    with pytest.raises(WrongIdsError, match=r"268, 2457, 921\], not .* 1678, 736, 921\]"):
        open_tokenizer(base)
    with pytest.raises(WrongIdsError):
        load_exact_tokenizer(base)


@pytest.mark.parametrize("damage", ["missing", "none", "normaliser", "prefix", "cut"])
def test_other_faults_of_the_file_are_found(damage: str, spaces_last: Path, tmp_path: Path) -> None:
    """Merges that are missing, and steps that are others."""
    folder = tmp_path / "base"
    folder.mkdir()
    Tokenizer(spaces_last).write_hf(folder, max_length_tokens=64, add_bos=False)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    if damage == "missing":
        del content["model"]["merges"][200:]
    elif damage == "none":
        content["model"]["merges"] = []
    elif damage == "normaliser":
        content["normalizer"]["normalizers"].append({"type": "NFKC"})
    elif damage == "prefix":
        del content["normalizer"]["normalizers"][0]
    else:
        content["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True
        }  # fmt: skip
    path.write_text(json.dumps(content))
    fault = find_fault(HfTokenizer(folder), Tokenizer(spaces_last))
    assert fault is not None
    assert fault.expected == Tokenizer(spaces_last).encode(fault.text, begins=True)
    assert fault.corrected is not None
    require_ids_of(HfTokenizer(path, content=fault.corrected), spaces_last)
    if damage in ("missing", "none"):
        (folder / "tokenizer.model").unlink()
        with pytest.raises(WrongIdsError, match="lost the order of its model's merges"):
            open_tokenizer(folder)


@pytest.mark.parametrize(
    "kind",
    ["byte_level", "byte_level_lines", "byte_level_prefix", "prepend", "first", "always", "never"],
)
def test_tokenizers_of_other_families_are_left_alone(kind: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / kind, kind, specials=["<|im_end|>"], eos="</s>")
    (folder / "model.safetensors").write_bytes(b"")
    opened = open_tokenizer(folder)
    assert isinstance(opened, HfTokenizer)
    assert opened.sha256 == HfTokenizer(folder).sha256
    assert find_fault(opened, None) is None


def test_a_unigram_is_left_alone(tmp_path: Path) -> None:
    from tokenizers import models, pre_tokenizers

    tokenizer = FastTokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -2.0)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert find_fault(HfTokenizer(tmp_path), None) is None


@pytest.mark.parametrize("order", ["ours", "versions 4"])
def test_what_writers_that_know_the_scores_write_is_no_fault(
    order: str, spaces_last: Path, tmp_path: Path
) -> None:
    model = Tokenizer(spaces_last)
    model.write_hf(tmp_path, max_length_tokens=64, add_bos=True)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    if order != "ours":  # of one piece, the halves in the order of their ids
        ids = content["model"]["vocab"]
        scores = {piece.piece: piece.score for piece in model.proto.pieces}
        halves = sorted(content["model"]["merges"], key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        content["model"]["merges"] = [
            " ".join(pair) for pair in sorted(halves, key=lambda pair: -scores["".join(pair)])
        ]
        path.write_text(json.dumps(content))
    assert find_fault(HfTokenizer(tmp_path), model) is None
    assert open_tokenizer(tmp_path).sha256 == model.sha256
    (tmp_path / "tokenizer.model").unlink()
    assert open_tokenizer(tmp_path).sha256 == HfTokenizer(tmp_path).sha256


def test_two_merges_that_changed_places_are_found(spaces_last: Path, tmp_path: Path) -> None:
    """Such as no text of a list shows."""
    model = Tokenizer(spaces_last)
    model.write_hf(tmp_path, max_length_tokens=64, add_bos=False)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    merges = content["model"]["merges"]
    found = 0
    for first, second in ((5, 300), (40, 41), (0, 200), (100, 350)):
        changed = [*merges]
        changed[first], changed[second] = merges[second], merges[first]
        path.write_text(json.dumps(content | {"model": content["model"] | {"merges": changed}}))
        file, fault = HfTokenizer(tmp_path), find_fault(HfTokenizer(tmp_path), model)
        found += fault is not None
        if fault is not None:
            assert file.encode(fault.text, begins=True) == fault.found != fault.expected
            assert model.encode(fault.text, begins=True) == fault.expected
    assert found >= 3
