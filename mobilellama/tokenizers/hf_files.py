"""The files that transformers 4 and 5 load as a tokenizer, and nothing of any one tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
_INPUTS = ["input_ids", "attention_mask"]


def write_hf_files(
    folder: Path,
    tokenizer_json: str,
    config: Mapping[str, Any],
    *,
    max_length_tokens: int,
    add_bos: bool,
    chat_template: str | None,
) -> None:
    """Write tokenizer.json, tokenizer_config.json and, for a chat model, its template.

    The class name PreTrainedTokenizerFast is what both versions load as it stands: of the
    classes of single models, version 5's rebuild parts of tokenizer.json and change ids
    (LlamaTokenizer its merges), and version 4 does not know the name that version 5 would write.

    Args:
        folder: where to; it exists.
        tokenizer_json: the text of tokenizer.json, which puts the begin token first or not.
        config: what else tokenizer_config.json is to hold: special tokens, and what is the
            tokenizer's own.
        max_length_tokens: the model's longest sequence.
        add_bos: whether encoding puts the begin token first.
        chat_template: Jinja of a chat model; None for a base model.
    """
    written = {
        **config,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "add_eos_token": False,
        # Without it version 4 also gives token_type_ids, which a Llama's generate() refuses.
        "model_input_names": _INPUTS,
        "model_max_length": max_length_tokens,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        # transformers reads the file; versions before 4.43, and readers that go by the key, the
        # key.
        written["chat_template"] = chat_template
        (folder / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")
    text = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    (folder / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")


def is_written_by_us(config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer_config.json is what ``write_hf_files`` writes.

    transformers writes another class name, or leaves these keys out.
    """
    return (
        config.get("tokenizer_class") == "PreTrainedTokenizerFast"
        and isinstance(config.get("add_bos_token"), bool)
        and config.get("add_eos_token") is False
        and config.get("clean_up_tokenization_spaces") is False
        and config.get("model_input_names") == _INPUTS
    )


def begin_with(bos: str, bos_id: int | None) -> Any:
    """Return the post-processor of ``tokenizers`` that puts `bos` before each text.

    With the id None it puts nothing there.
    """
    from tokenizers import processors

    if bos_id is None:
        return processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return processors.TemplateProcessing(
        single=[bos, "$A"],
        pair=[bos, "$A", f"{bos}:1", "$B:1"],
        special_tokens=[(bos, bos_id)],
    )
