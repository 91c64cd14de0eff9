"""Tokenizers of Hugging Face folders against transformers' reading of the same files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.opening import open_tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.mobilellama.tokenizers.conftest import (
    KINDS,
    rewrite,
)


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def test_a_text_has_the_ids_that_transformers_gives(folder: Path) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(folder), HfTokenizer(folder)
    for text in hostile_texts(300):
        expected = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, begins=True) == expected


def test_texts_about_a_special_token_have_the_ids_of_the_whole_string(folder: Path) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(folder), HfTokenizer(folder)
    special = ours.specials["<|im_end|>"]
    texts = ["user\nhi", " lead", "  two", "", "\n", "trail ", "a  b", "🙂"]
    for before in texts:
        for after in texts:
            whole = theirs(f"{before}<|im_end|>{after}", add_special_tokens=False).input_ids
            parts = [*ours.encode(before, begins=True), special.id]
            parts += ours.encode(after, begins=ours.begins_after_special)
            assert parts == whole, (before, after)


def test_a_text_that_goes_on_with_a_space_has_the_ids_of_the_whole_string(folder: Path) -> None:
    ours = HfTokenizer(folder)
    for before, after in [("USER:", " hi"), ("a", " b c"), ("the answer", " is 🙂 it")]:
        parts = ours.encode(before, begins=True) + ours.encode(after, begins=False)
        assert parts == ours.encode(before + after, begins=True)


def test_going_on_puts_no_space_before_a_text(folder: Path) -> None:
    ours = HfTokenizer(folder)
    assert ours.decode(ours.encode("the", begins=False)) == "the"
    prefixed = folder.name not in ("byte_level", "byte_level_lines", "never")
    assert (ours.encode("the", begins=False) != ours.encode("the", begins=True)) == prefixed
    assert ours.encode(" the", begins=False) == ours.encode(" the", begins=True) or prefixed


def test_special_tokens_that_a_text_spells_stay_text(folder: Path) -> None:
    ours = HfTokenizer(folder)
    text = "x</s><|im_end|> <|im_start|>system <s>"
    for begins in (True, False):
        ids = ours.encode(text, begins=begins)
        assert not {*ids} & {special.id for special in ours.specials.values()}
        assert ours.decode(ids).strip() == text
    read = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False).input_ids
    assert ours.specials["<|im_end|>"].id in read, "transformers itself takes it for the token"


def test_decoding_leaves_special_tokens_out(folder: Path) -> None:
    ours = HfTokenizer(folder)
    ids = [ours.specials["<s>"].id, *ours.encode("the", begins=False), ours.specials["</s>"].id]
    assert ours.decode(ids) == "the"


def test_ids_and_sizes_are_those_of_the_files(folders: dict[str, Path]) -> None:
    ours = HfTokenizer(folders["byte_level"])
    theirs: Any = AutoTokenizer.from_pretrained(folders["byte_level"])
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.bos_token == "<s>"
    assert ours.vocab_size == len(theirs) == max(theirs.get_vocab().values()) + 1
    assert ours.pad_id == ours.eos_id, "neither pad_token nor unk_token is named"


def test_an_unnamed_begin_token_is_none(tmp_path: Path) -> None:
    ours = HfTokenizer(write_tokenizer(tmp_path / "t", "byte_level", eos="<|endoftext|>"))
    assert (ours.bos_id, ours.bos_token) == (None, "")
    with pytest.raises(
        ConfigError, match=r"add_bos = true: needs a bos_token, but .* names none. Give false"
    ):
        ours.write_hf(tmp_path, max_length_tokens=64, add_bos=True)


def test_what_special_tokens_swallow_and_whether_text_gives_them_is_known(tmp_path: Path) -> None:
    specials = [AddedToken("<|user|>", rstrip=True, normalized=False, special=True), "<|end|>"]
    folder = write_tokenizer(tmp_path / "t", "prepend", specials=specials, bos="<s>", eos="</s>")
    value = json.loads((folder / "tokenizer.json").read_text())
    for token in value["added_tokens"]:
        token["special"] = token["content"] == "<|user|>"  # as Phi-3 has its </s>
    rewrite(folder, "tokenizer.json", **value)
    ours = HfTokenizer(folder)
    assert (ours.specials["<|user|>"].rstrip, ours.specials["<|user|>"].lstrip) == (True, False)
    assert {t: s.read_from_text for t, s in ours.specials.items()} == {
        "<s>": False, "</s>": False, "<|user|>": False, "<|end|>": True,
    }  # fmt: skip
    assert ours.specials["</s>"].id not in ours.encode("a</s>b", begins=True)
    assert ours.specials["<|end|>"].id in ours.encode("a<|end|>b", begins=True)


@pytest.mark.parametrize("add_bos", [True, False])
def test_an_export_has_the_same_ids_and_begins_as_told(
    folder: Path, tmp_path: Path, add_bos: bool
) -> None:
    ours = HfTokenizer(folder)
    ours.write_hf(tmp_path, max_length_tokens=512, add_bos=add_bos)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    start = [ours.bos_id] if add_bos else []
    for text in hostile_texts(100):
        assert loaded(text).input_ids == start + ours.encode(text, begins=True)
    assert set(loaded("a")) == {"input_ids", "attention_mask"}
    assert loaded.model_max_length == 512
    assert (loaded.eos_token, loaded.pad_token, loaded.chat_template) == ("</s>", "</s>", None)


def test_an_export_carries_the_chat_template_and_the_end_of_answers(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    ours = HfTokenizer(folders["byte_level"])
    ours.write_hf(
        tmp_path, max_length_tokens=512, add_bos=False, chat_template="{{- 'naïve' -}}\n",
        eos_token="<|im_end|>",
    )  # fmt: skip
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.chat_template, loaded.eos_token) == ("{{- 'naïve' -}}\n", "<|im_end|>")
    with pytest.raises(ConfigError, match=r"eos_token = <\|nowhere\|>: is not a special token of "):
        ours.write_hf(tmp_path, max_length_tokens=512, add_bos=False, eos_token="<|nowhere|>")


def test_saving_and_opening_gives_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    ours = HfTokenizer(folder)
    ours.save(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert opened.path == tmp_path / "tokenizer" / "tokenizer.json"
    assert opened.sha256 == ours.sha256
    opened.require_sha256(ours.sha256, field="tokenizer", owner="it")
    with pytest.raises(ConfigError, match=r"it was made with 00000.*Give the same tokenizer\.json"):
        opened.require_sha256("0" * 64, field="tokenizer", owner="it")
    assert (opened.bos_id, opened.specials) == (ours.bos_id, ours.specials)
    assert opened.encode(" x", begins=False) == ours.encode(" x", begins=False)


def test_a_token_that_the_library_gives_another_id_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["byte_level"], tmp_path / "t"))
    value = json.loads((folder / "tokenizer.json").read_text())
    last = value["added_tokens"][-1]
    used = last["id"]
    last["id"] += 50  # a gap, which is lost without a word
    rewrite(folder, "tokenizer.json", **value)
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(last["content"]) == used
    with pytest.raises(ConfigError) as caught:
        HfTokenizer(folder)
    assert str(caught.value) == (
        f"tokenizer = {folder}/tokenizer.json: says that <|im_end|> has the id {used + 50}, but "
        f"tokenizers and transformers give it {used}. Number the added tokens from the end of the "
        "vocabulary on, without gaps."
    )


def test_another_end_of_texts_is_saved_and_nothing_else_changes(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    ours = HfTokenizer(folders["byte_level"])
    assert ours.ended_by("</s>") is ours
    other = ours.ended_by("<|im_end|>")
    assert (other.eos_token, other.eos_id) == ("<|im_end|>", ours.specials["<|im_end|>"].id)
    other.save(tmp_path)
    saved = HfTokenizer(tmp_path / "tokenizer")
    assert (saved.sha256, saved.config) == (ours.sha256, ours.config | {"eos_token": "<|im_end|>"})
    assert ours.eos_token == "</s>"


def test_a_batch_has_the_ids_of_its_texts(folder: Path) -> None:
    ours, texts = HfTokenizer(folder), hostile_texts(50)
    assert ours.encode_batch(texts) == [ours.encode(text, begins=True) for text in texts]
