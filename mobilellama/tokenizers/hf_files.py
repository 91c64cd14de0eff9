"""Write the files that transformers 4 and 5 load as a tokenizer, for any tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it is imported where it is used
    from tokenizers.processors import PostProcessor

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
_INPUTS = ["input_ids", "attention_mask"]


def write_hf_files(
    folder: Path,
    tokenizer_json: str,
    config: Mapping[str, object],
    *,
    max_length_tokens: int,
    add_bos: bool,
    chat_template: str | None,
) -> None:
    """Write tokenizer.json, tokenizer_config.json and, for a chat model, its template.

    Both versions load the class PreTrainedTokenizerFast without changing the ids. In version 5,
    the classes of single models rebuild parts of tokenizer.json, such as the merges in
    LlamaTokenizer. Version 4 does not know the class name that version 5 would write.

    Args:
        folder: the folder, which exists.
        tokenizer_json: the text of tokenizer.json. It decides whether the begin token is put first.
        config: further values of tokenizer_config.json, such as the special tokens.
        max_length_tokens: the model's longest sequence.
        add_bos: whether encoding puts the begin token first.
        chat_template: Jinja of a chat model. None: a base model.
    """
    written = {
        **config,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "add_eos_token": False,
        # Without it, version 4 also returns token_type_ids, which generate() of a Llama refuses.
        "model_input_names": _INPUTS,
        "model_max_length": max_length_tokens,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        # transformers reads the file. Versions before 4.43 and some other readers read the key.
        written["chat_template"] = chat_template
        (folder / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")
    text = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    (folder / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")


def is_written_by_us(config: Mapping[str, object]) -> bool:
    """Whether ``write_hf_files`` wrote a tokenizer_config.json.

    transformers writes another class name, or omits these keys.
    """
    return (
        config.get("tokenizer_class") == "PreTrainedTokenizerFast"
        and isinstance(config.get("add_bos_token"), bool)
        and config.get("add_eos_token") is False
        and config.get("clean_up_tokenization_spaces") is False
        and config.get("model_input_names") == _INPUTS
    )


def begin_with(bos: str, bos_id: int | None) -> "PostProcessor":
    """Return the post-processor of ``tokenizers`` that puts `bos` before each text.

    If the id is None, it puts nothing there.
    """
    from tokenizers import processors

    if bos_id is None:
        return processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return processors.TemplateProcessing(
        single=[bos, "$A"],
        pair=[bos, "$A", f"{bos}:1", "$B:1"],
        special_tokens=[(bos, bos_id)],
    )
