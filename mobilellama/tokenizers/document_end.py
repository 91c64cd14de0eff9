"""Find the token that ends a document in pretraining, in the files of a Hugging Face folder.

The eos_token of a chat model ends a turn, not a document: <|eot_id|> of Llama 3's, <|im_end|> of
Qwen's. The base models end documents with <|end_of_text|> and <|endoftext|>. The first of these
rules that gives one token decides:

1. the token that the user gave;
2. of the tokens that the files name as ends, the one that is known to end documents;
3. the only token that the files name, unless it is known to end turns;
4. of all special tokens, the one that is known to end documents.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from mobilellama.config import ConfigError
from mobilellama.files.atomic import read_json
from mobilellama.tokenizers.hf_files import CONFIG_FILE
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer

# Llama 3, GPT-2 and Qwen, LLaMA and Mistral, Gemma, DeepSeek, Command R
ENDS_OF_DOCUMENTS = (
    "<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>",
    "<\N{FULLWIDTH VERTICAL LINE}end\u2581of\u2581sentence\N{FULLWIDTH VERTICAL LINE}>",
    "<EOS_TOKEN>",
)  # fmt: skip
"""Tokens that end a document in the pretraining of known models."""
# Llama 3, ChatML and Qwen, Phi, Gemma, Llama 4, OpenChat, Command R
ENDS_OF_TURNS = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eot|>", "<|eom|>",
    "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>",
)  # fmt: skip
"""Tokens that end a turn of a conversation in known chat models."""
_ID_FILES = ("generation_config.json", "config.json")
_NO_ID = 1 << 32  # ``tokenizers`` takes no larger number for an id
_SHOWN = 8  # tokens in one message


def find_document_end(tokenizer: HfTokenizer, eos_token: str | None) -> str:
    """Return the spelling of the token that ends documents.

    Args:
        tokenizer: the tokenizer of the folder.
        eos_token: the token that the user gave. None: find it.

    Raises:
        ConfigError: the given token is not a special token, or it cannot be known which one it is.
    """
    if eos_token is not None:
        if eos_token not in tokenizer.specials:
            rule = f"is not a special token of {tokenizer.path}"
            remedy = f"Give one of {_listed(tokenizer.specials) or 'another tokenizer'}"
            raise ConfigError("eos_token", eos_token, rule, remedy)
        return eos_token
    named = _named_ends(tokenizer)
    known = [token for token in ENDS_OF_DOCUMENTS if token in named]
    if not known and len(named) == 1 and not set(named) & {*ENDS_OF_TURNS}:
        known = list(named)
    if not known and not set(named) - {*ENDS_OF_TURNS}:
        known = [token for token in ENDS_OF_DOCUMENTS if token in tokenizer.specials]
    if len(known) == 1:
        return known[0]
    raise ConfigError("eos_token", None, *_unknown(tokenizer, named))


def _named_ends(tokenizer: HfTokenizer) -> dict[str, str]:
    """Return the tokens that the folder's files name as ends, with the file that names each."""
    found: dict[str, str] = {}
    if tokenizer.eos_token is not None:
        found[tokenizer.eos_token] = CONFIG_FILE
    for name in _ID_FILES:
        for token_id in _end_ids(tokenizer.path.with_name(name)):
            if (token := tokenizer.token_of(token_id)) is not None:
                found.setdefault(token, name)
    return found


def _end_ids(path: Path) -> list[int]:
    """Return the ids of eos_token_id in a model's file: none, one, or several."""
    try:
        value = cast(object, read_json(path))
    except (OSError, ValueError, RecursionError):
        return []
    ids = value.get("eos_token_id") if isinstance(value, dict) else None
    ids = ids if isinstance(ids, list) else [ids]
    return [one for one in ids if type(one) is int and 0 <= one < _NO_ID]


def _unknown(tokenizer: HfTokenizer, named: Mapping[str, str]) -> tuple[str, str]:
    """Return the rule and the remedy of a folder whose document end cannot be known."""
    remedy = "Give --eos_token TOKEN, the one after which a document ends in pretraining"
    if named:
        ends = ", ".join(f"{token} ({name})" for token, name in named.items())
        rule = f"cannot be known: the files beside {tokenizer.path} name {ends}"
    else:
        rule = f"cannot be known: no file beside {tokenizer.path} names an eos_token"
    special = _listed(tokenizer.specials)
    return f"{rule}. Its special tokens are {special or '(none)'}", remedy


def _listed(specials: Mapping[str, object]) -> str:
    more = ", ..." if len(specials) > _SHOWN else ""
    return ", ".join([*specials][:_SHOWN]) + more
