"""The token that ends documents, in folders as base models and chat models have them."""

import json
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenizers.document_end import find_document_end
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from tests.helpers.corpus_tokenizers import write_llama3, write_qwen
from tests.helpers.hf_tokenizers import write_tokenizer


def end_of(folder: Path, eos_token: str | None = None) -> str:
    return find_document_end(HfTokenizer(folder), eos_token)


def name_ids(folder: Path, *tokens: str, name: str = "generation_config.json") -> Path:
    """Let a model's file name tokens as its ends."""
    specials = HfTokenizer(folder).specials
    ids = [specials[token].id for token in tokens]
    (folder / name).write_text(json.dumps({"eos_token_id": ids if len(ids) > 1 else ids[0]}))
    return folder


def test_a_base_model_ends_documents_with_its_eos_token(tmp_path: Path) -> None:
    assert end_of(write_llama3(tmp_path / "llama3")) == "<|end_of_text|>"
    assert end_of(write_qwen(tmp_path / "qwen")) == "<|endoftext|>"


def test_a_chat_model_whose_files_name_both_ends_has_the_end_of_documents(tmp_path: Path) -> None:
    folder = write_llama3(tmp_path / "a", eos_token="<|eot_id|>")
    assert end_of(name_ids(folder, "<|end_of_text|>", "<|eot_id|>")) == "<|end_of_text|>"
    folder = write_qwen(tmp_path / "b", eos_token="<|im_end|>")
    assert end_of(name_ids(folder, "<|endoftext|>", name="config.json")) == "<|endoftext|>"


@pytest.mark.parametrize("eos_token", ["<|eot_id|>", None])
def test_the_only_known_end_of_documents_is_taken_if_the_files_name_none(
    eos_token: str | None, tmp_path: Path
) -> None:
    folder = write_llama3(tmp_path / "chat", eos_token=eos_token)
    assert end_of(folder) == "<|end_of_text|>"
    (folder / "tokenizer_config.json").unlink()
    assert end_of(folder) == "<|end_of_text|>"


def test_an_end_that_nobody_knows_is_taken_if_the_files_name_it_alone(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "t", "byte_level", eos="[DONE]")
    assert end_of(folder) == "[DONE]"


def test_the_users_token_wins_and_must_be_special(tmp_path: Path) -> None:
    folder = write_llama3(tmp_path / "t")
    assert end_of(folder, "<|eot_id|>") == "<|eot_id|>"
    with pytest.raises(ConfigError) as caught:
        end_of(folder, "<|im_end|>")
    assert str(caught.value) == (
        f"eos_token = <|im_end|>: is not a special token of {folder}/tokenizer.json. Give one of "
        "<|begin_of_text|>, <|end_of_text|>, <|start_header_id|>, <|end_header_id|>, <|eot_id|>."
    )


def test_an_end_that_cannot_be_known_is_an_error_that_names_what_was_found(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "two", "byte_level", specials=["[A]", "[B]"], eos="[A]")
    with pytest.raises(ConfigError) as caught:
        end_of(name_ids(folder, "[B]"))
    assert str(caught.value) == (
        f"eos_token = null: cannot be known: the files beside {folder}/tokenizer.json name [A] "
        "(tokenizer_config.json), [B] (generation_config.json). Its special tokens are [A], [B]. "
        "Give --eos_token TOKEN, the one after which a document ends in pretraining."
    )
    folder = write_tokenizer(tmp_path / "none", "byte_level")
    with pytest.raises(ConfigError, match=r"no file beside .* names an eos_token\. .* \(none\)\."):
        end_of(folder)
    folder = write_tokenizer(tmp_path / "turn", "byte_level", eos="<|im_end|>")
    with pytest.raises(ConfigError, match=r"name <\|im_end\|> \(tokenizer_config.json\)"):
        end_of(folder)
    folder = write_tokenizer(
        tmp_path / "known", "byte_level", specials=["</s>", "<|endoftext|>"], eos="</s>"
    )
    with pytest.raises(ConfigError, match=r"name </s> .*, <\|endoftext\|> \(gen"):
        end_of(name_ids(folder, "<|endoftext|>"))


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"eos_token_id": [true, -1, 99999999999999999999, "x", 4000]}']
)
def test_ids_that_no_token_has_name_nothing(content: str, tmp_path: Path) -> None:
    folder = write_qwen(tmp_path / "t")
    (folder / "generation_config.json").write_text(content)
    assert end_of(folder) == "<|endoftext|>"
