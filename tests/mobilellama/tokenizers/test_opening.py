"""Which tokenizer of a folder is opened, and with which ids; what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.opening import (
    WrongIdsError,
    open_known_tokenizer,
    open_tokenizer,
)
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.saved_tokenizers import save_again
from tests.mobilellama.tokenizers.conftest import (
    copied,
    require_ids_of,
    rewrite,
)


def test_a_folder_or_its_json_file_opens(folders: dict[str, Path]) -> None:
    for path in (folders["byte_level"], folders["byte_level"] / "tokenizer.json"):
        opened = open_tokenizer(path)
        assert isinstance(opened, HfTokenizer)
        assert opened.bos_token == "<s>"


def test_sentencepiece_is_taken_where_the_json_adds_nothing(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    model = Tokenizer(small_tokenizer)
    model.write_hf(tmp_path, max_length_tokens=64, add_bos=True)
    assert isinstance(open_tokenizer(tmp_path), Tokenizer)
    value = json.loads((tmp_path / "tokenizer.json").read_text())
    added = {"id": 800, "content": "<|end|>", "special": True, "normalized": False,
             "lstrip": False, "rstrip": False, "single_word": False}  # fmt: skip
    value["added_tokens"].append(added)
    rewrite(tmp_path, "tokenizer.json", **value)
    opened = open_tokenizer(tmp_path)
    assert isinstance(opened, HfTokenizer)
    assert (opened.vocab_size, opened.specials["<|end|>"].id) == (801, 800)
    for text in hostile_texts(200):
        assert opened.encode(text, begins=True) == model.encode(text, begins=True)
        assert opened.encode(text, begins=False) == model.encode(text, begins=False)


def test_the_json_is_taken_where_the_model_beside_it_is_another(
    folders: dict[str, Path], small_tokenizer: Path, tmp_path: Path
) -> None:
    for content in (small_tokenizer.read_bytes(), b"of another kind"):
        HfTokenizer(folders["prepend"]).save(tmp_path)
        (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(content)
        opened = open_tokenizer(tmp_path / "tokenizer")
        assert isinstance(opened, HfTokenizer)
        assert opened.sha256 == HfTokenizer(folders["prepend"]).sha256


def test_a_saved_sentencepiece_model_opens_from_its_folder(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    model = Tokenizer(small_tokenizer)
    model.save(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert isinstance(opened, Tokenizer)
    assert opened.sha256 == model.sha256


def test_tokens_added_to_a_sentencepiece_model_need_a_json(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    Tokenizer(small_tokenizer).save(tmp_path)
    rewrite(tmp_path, "added_tokens.json", **{"<|im_end|>": 800})
    with pytest.raises(ConfigError, match=r"adds <\|im_end\|> to tokenizer.model, without tok"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("tokenizer_config.json", {"pad_token": "[PAD]"}, r"lacks \[PAD\], which the files beside"),
        ("added_tokens.json", {"<|x|>": 999}, r"lacks <\|x\|>, which the files beside it name"),
        ("tokenizer.json", {"model": {"type": "Nonsense"}}, "is not a tokenizer"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, name: str, values: dict[str, Any], rule: str
) -> None:
    folder = write_tokenizer(tmp_path / "t", "byte_level", eos="</s>")
    with pytest.raises(ConfigError, match=f"^data.tokenizer = .*tokenizer.json: {rule}"):
        open_tokenizer(rewrite(folder, name, **values), field="data.tokenizer")


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds neither tokenizer\.model nor tokenizer\.json"):
        open_tokenizer(tmp_path)
    for name in (str(tmp_path / "absent.model"), "gpt2"):
        with pytest.raises(ConfigError) as error:
            open_tokenizer(name)
        assert str(error.value) == (
            f"tokenizer = {name}: is neither a file nor a folder. Give a sentencepiece .model "
            "file, a tokenizer.json, or a folder on this machine that holds one of them."
        )
    (tmp_path / "notes.txt").write_text("a, b")
    with pytest.raises(ConfigError, match=r"is not a sentencepiece model\..*or a folder on this"):
        open_tokenizer(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json"):
        open_tokenizer(tmp_path / "absent.json")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a JSON object"):
        open_tokenizer(tmp_path)


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


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "adapter_config.json", "a.pt"])
def test_what_says_that_a_model_was_trained_counts_as_its_weights(
    name: str, saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = copied(saved, tmp_path / "base", model=spaces_last)
    (folder / name).write_text("{}")
    with pytest.raises(WrongIdsError, match=f"{name} may have learnt either"):
        open_tokenizer(folder)


def test_a_tokenizer_of_the_hub_is_refused_as_beside_weights_that_are_not_downloaded(
    saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = copied(saved, tmp_path / "wrong", model=spaces_last)
    with pytest.raises(WrongIdsError, match="its model may have learnt either"):
        open_tokenizer(folder, trained=True)
    open_tokenizer(folder)  # corrected: nothing was trained with it
