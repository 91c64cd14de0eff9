"""A tokenizer.json that transformers 5 made of a sentencepiece model gives other ids."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.tokenizers.conversion import find_fault
from mobilellama.tokenizers.exact_tokenizer import load_exact_tokenizer
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.opening import WrongIdsError, open_known_tokenizer, open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.saved_tokenizers import save_again, write_spaces_last

TEXTS = hostile_texts(300)


@pytest.fixture(scope="module")
def spaces_last(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose pieces of spaces alone are merged last, as LLaMA's are."""
    path = tmp_path_factory.mktemp("spaces_last") / "tokenizer.model"
    return write_spaces_last(small_tokenizer, path)


@pytest.fixture(scope="module")
def saved(spaces_last: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has who adds a token with transformers 5."""
    return save_again(spaces_last, tmp_path_factory.mktemp("saved"))


def copied(folder: Path, to: Path, *, model: Path | None = None, weights: bool = False) -> Path:
    shutil.copytree(folder, to)
    if model is not None:
        shutil.copy(model, to / "tokenizer.model")
    if weights:
        (to / "model.safetensors").write_bytes(b"")
    return to


def require_ids_of(tokenizer: Any, model: Path) -> None:
    expected = Tokenizer(model)
    for begins in (True, False):
        for text in TEXTS:
            assert tokenizer.encode(text, begins=begins) == expected.encode(text, begins=begins)


def test_the_file_alone_gives_other_ids(saved: Path, spaces_last: Path) -> None:
    model, file = Tokenizer(spaces_last), HfTokenizer(saved)
    text = "def f(x):\n    return x"
    assert file.encode(text, begins=True) != model.encode(text, begins=True)


def test_a_bare_tokenizer_is_corrected_by_the_model_beside_it_and_that_is_said(
    saved: Path, spaces_last: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(saved, tmp_path / "base", model=spaces_last)
    with caplog.at_level(logging.WARNING):
        opened = open_tokenizer(folder)
    require_ids_of(opened, spaces_last)
    assert opened.specials["[PAD]"].id == 800
    assert "'def f(x):\\n    return x' the ids [" in caplog.text
    assert caplog.text.rstrip().endswith("as its model does: corrected")
    assert opened.sha256 != HfTokenizer(folder).sha256


def test_what_is_saved_of_a_corrected_tokenizer_is_right_and_has_its_sha256(
    saved: Path, spaces_last: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_tokenizer(copied(saved, tmp_path / "base", model=spaces_last))
    (tmp_path / "dataset").mkdir()
    opened.save(tmp_path / "dataset")
    (tmp_path / "dataset" / "dataset.json").write_text("{}")
    caplog.clear()
    again = open_tokenizer(tmp_path / "dataset")
    assert again.sha256 == opened.sha256
    assert not caplog.text
    require_ids_of(again, spaces_last)
    (tmp_path / "hf").mkdir()
    opened.write_hf(tmp_path / "hf", max_length_tokens=64, add_bos=False)
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"")
    require_ids_of(open_tokenizer(tmp_path / "hf"), spaces_last)


def test_beside_weights_it_is_refused_unless_its_ids_are_wanted(
    saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = copied(saved, tmp_path / "base", model=spaces_last, weights=True)
    with pytest.raises(WrongIdsError) as error:
        open_tokenizer(folder, field="model")
    text = "def f(x):\n    return x"
    file, model = HfTokenizer(folder), Tokenizer(spaces_last)
    both = (file.encode(text, begins=True), model.encode(text, begins=True))
    for ids in both:
        assert f"[{', '.join(map(str, ids[:12]))}" in str(error.value)
    assert repr(text) in str(error.value)
    assert "model.safetensors may have learnt either" in str(error.value)
    assert "--tokenizer_as_is true" in str(error.value)
    taken = open_tokenizer(folder, as_is=True)
    assert taken.sha256 == file.sha256
    assert taken.encode(text, begins=True) == both[0]


def test_a_file_that_adds_nothing_is_refused_beside_weights_too(
    spaces_last: Path, tmp_path: Path
) -> None:
    first = save_again(spaces_last, tmp_path / "a").parent / "first"
    tokenizer = AutoTokenizer.from_pretrained(first)
    tokenizer.save_pretrained(tmp_path / "plain")
    folder = copied(tmp_path / "plain", tmp_path / "bare", model=spaces_last)
    assert isinstance(open_tokenizer(folder), Tokenizer)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WrongIdsError):
        open_tokenizer(folder)
    assert isinstance(open_tokenizer(folder, as_is=True), HfTokenizer)


def test_without_the_model_lost_scores_are_told(saved: Path, tmp_path: Path) -> None:
    for weights in (False, True):
        folder = copied(saved, tmp_path / f"{weights}", weights=weights)
        with pytest.raises(WrongIdsError, match=r"'a  b' the ids|return x' the ids"):
            open_tokenizer(folder)
        assert open_tokenizer(folder, as_is=True).sha256 == HfTokenizer(folder).sha256


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


def test_a_dataset_made_with_the_files_ids_keeps_them(saved: Path, tmp_path: Path) -> None:
    """What stands was made with these ids, and goes on with them."""
    copied(saved, tmp_path / "dataset" / "tokenizer")
    (tmp_path / "dataset" / "dataset.json").write_text("{}")
    sha256 = HfTokenizer(saved).sha256
    for path in ("dataset", "dataset/tokenizer", "dataset/tokenizer/tokenizer.json"):
        assert open_tokenizer(tmp_path / path).sha256 == sha256
        assert open_known_tokenizer(tmp_path / path, sha256, owner="x").sha256 == sha256


def test_the_one_that_something_was_made_with_is_found_again(
    saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = copied(saved, tmp_path / "base", model=spaces_last)
    corrected, as_is = open_tokenizer(folder), open_tokenizer(folder, as_is=True)
    assert corrected.sha256 != as_is.sha256
    for one in (corrected, as_is):
        for path in (folder, folder / "tokenizer.json"):
            again = open_known_tokenizer(path, one.sha256, owner="the run")
            assert again.sha256 == one.sha256
            assert again.encode("a    b", begins=True) == one.encode("a    b", begins=True)
    with pytest.raises(ConfigError, match="the run was made with 000000000000"):
        open_known_tokenizer(folder, "0" * 64, owner="the run")


def test_legacy_false_keeps_its_steps(saved: Path, spaces_last: Path, tmp_path: Path) -> None:
    base = copied(saved, tmp_path / "base", model=spaces_last)
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"legacy": False}))
    opened = open_tokenizer(base)
    assert opened.begins_after_special is False
    model = Tokenizer(spaces_last)
    for text in ("def f(x):\n    return x", "a    b"):
        assert opened.encode(text, begins=True) == model.encode(text, begins=True)


def test_transformers_tokenizer_gets_the_same_ids(
    saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = copied(saved, tmp_path / "base", model=spaces_last)
    first = saved.parent / "first"  # the model alone, which version 5 converts wrongly
    for path in (folder, first):
        exact = load_exact_tokenizer(path)
        model = Tokenizer(spaces_last)
        for text in TEXTS:
            found = exact(text, add_special_tokens=False).input_ids
            assert found == model.encode(text, begins=True)
    exact = load_exact_tokenizer(folder)
    assert (exact.pad_token, exact.pad_token_id, exact.bos_token) == ("[PAD]", 800, "<s>")
    with_bos = load_exact_tokenizer(folder, add_bos_token=True)
    assert with_bos.encode("a")[0] == with_bos.bos_token_id
    assert with_bos.encode("a", add_special_tokens=False)[0] != with_bos.bos_token_id


def cached_on_the_hub(folder: Path, home: Path) -> str:
    """Put a folder where huggingface_hub keeps what it fetched; return its name."""
    root = home / "models--someone--model"
    shutil.copytree(folder, root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    return "someone/model"


def test_a_name_on_the_hub_has_the_ids_of_its_folder(
    saved: Path, spaces_last: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = Tokenizer(spaces_last), "def f(x):\n    return x  y"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "right"))
    name = cached_on_the_hub(saved.parent / "first", tmp_path / "right")
    exact = load_exact_tokenizer(name)
    assert exact(text, add_special_tokens=False).input_ids == model.encode(text, begins=True)
    wrong = copied(saved, tmp_path / "wrong_folder", model=spaces_last)
    shutil.copy(saved.parent / "first" / "config.json", wrong)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "wrong"))
    name = cached_on_the_hub(wrong, tmp_path / "wrong")
    with pytest.raises(WrongIdsError, match="its model may have learnt either"):
        load_exact_tokenizer(name)
    assert load_exact_tokenizer(name, as_is=True).pad_token == "[PAD]"


def test_a_model_beside_added_tokens_alone_gives_its_ids(
    saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    """Folders of transformers 4's slow tokenizers, which hold no tokenizer.json."""
    folder = tmp_path / "slow"
    shutil.copytree(saved.parent / "first", folder)
    (folder / "added_tokens.json").write_text('{"[PAD]": 800}')
    exact, model = load_exact_tokenizer(folder), Tokenizer(spaces_last)
    for text in ("def f(x):\n    return x", "  lead", "a    b"):
        assert exact(text, add_special_tokens=False).input_ids == model.encode(text, begins=True)
    assert exact("a [PAD]", add_special_tokens=False).input_ids[-1] == 800


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "adapter_config.json", "a.pt"])
def test_what_says_that_a_model_was_trained_counts_as_its_weights(
    name: str, saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = copied(saved, tmp_path / "base", model=spaces_last)
    (folder / name).write_text("{}")
    with pytest.raises(WrongIdsError, match=f"{name} may have learnt either"):
        open_tokenizer(folder)


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


@pytest.mark.parametrize("writer", ["this project", "transformers 5"])
def test_as_they_are_means_the_same_ids_in_chat_and_in_training(
    writer: str, saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    if writer == "transformers 5":
        copied(saved, folder, model=spaces_last)
    else:  # its class makes other merges of it than those that it holds
        folder.mkdir()
        Tokenizer(spaces_last).write_hf(folder, max_length_tokens=64, add_bos=False)
        shutil.copy(saved.parent / "first" / "tokenizer_config.json", folder)
    trained, chat = open_tokenizer(folder, as_is=True), load_exact_tokenizer(folder, as_is=True)
    for text in ("def f(x):\n    return x", "  lead", "a    b"):
        ids = chat(text, add_special_tokens=False).input_ids
        assert ids == trained.encode(text, begins=True)
