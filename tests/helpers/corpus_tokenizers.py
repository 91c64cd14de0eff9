"""Tokenizers of the shapes of Llama 3's and Qwen's, with a small vocabulary or a large one."""

import json
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from tests.helpers.hf_tokenizers import TEXT, write_tokenizer

_LLAMA_SPECIALS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>",
)  # fmt: skip
_TOOLS = tuple(
    AddedToken(t, normalized=False, special=False) for t in ("<tool_call>", "<|fim_prefix|>")
)
SPELLED = (
    "a literal <|end_of_text|> in text",
    "<|begin_of_text|><|eot_id|>",
    "<|endoftext|><|im_start|>x<|im_end|> </s>",
    "  <|end_of_text|>  \n",
)
"""Texts that spell special tokens of both."""
LITERATURE = [
    *TEXT,
    "don't naïve Привет 日本語 12345 e\u0301",
    "def f(x):\n    return x  # ok\n\n\n",
]


def write_llama3(folder: Path, *, size: int = 0, **config: Any) -> Path:
    """Write a tokenizer like Llama 3's: words that are pieces are not merged; begins with a token.

    Args:
        folder: is made.
        size: ids to have at least. Pieces that no text gives fill the vocabulary up.
        config: further values of tokenizer_config.json.
    """
    write_tokenizer(folder, "byte_level_lines", specials=_LLAMA_SPECIALS, text=LITERATURE)
    value = read(folder)
    value["model"]["ignore_merges"] = True
    begin = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    single = [begin, {"Sequence": {"id": "A", "type_id": 0}}]
    pieces, added = value["model"]["vocab"], value["added_tokens"]
    pieces |= {f"unused_{i}": i for i in range(len(pieces), size - len(added))}
    for i, token in enumerate(added, len(pieces)):
        token["id"] = i
    ids = {token["content"]: token["id"] for token in added}
    value["post_processor"] = {
        "type": "TemplateProcessing", "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|begin_of_text|>": {
                "id": "<|begin_of_text|>",
                "ids": [ids["<|begin_of_text|>"]],
                "tokens": ["<|begin_of_text|>"],
            }
        },
    }  # fmt: skip
    # What a file may say, and no dataset may do: cut texts, and fill them up.
    value["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    value["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(value))
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    return write_config(folder, **named | config)


def write_qwen(folder: Path, **config: Any) -> Path:
    """Write a tokenizer like Qwen's: NFC, no begin token, and tokens that are not special."""
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_TOOLS)
    text = [unicodedata.normalize("NFC", text) for text in LITERATURE]
    write_tokenizer(folder, "byte_level_lines", specials=specials, text=text)
    value = read(folder)
    value["normalizer"] = {"type": "NFC"}
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return write_config(folder, **{"eos_token": "<|endoftext|>"} | config)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokenizer.json").read_text())


def write_config(folder: Path, **config: Any) -> Path:
    """Write tokenizer_config.json. A token that is None is left out."""
    kept = {name: value for name, value in config.items() if value is not None}
    text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **kept})
    (folder / "tokenizer_config.json").write_text(text)
    return folder
