"""Load a folder's tokenizer with transformers, with the same ids as in training.

transformers 5 rebuilds parts of a tokenizer. LLaMA's class makes the merges of a tokenizer.model
without its scores, and omits the step that puts a space before a text. ``open_tokenizer`` decides
the ids. This file corrects transformers' tokenizer to give the same.
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mobilellama.config import ConfigError
from mobilellama.files.foreign_tokenizer import ForeignTokenizer
from mobilellama.files.pretrained import load_tokenizer
from mobilellama.tokenizers.conversion import is_llamas_kind, with_steps
from mobilellama.tokenizers.fast_tokenizer import broken_rules, fast_tokenizer
from mobilellama.tokenizers.hf_files import TOKENIZER_FILE
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.opening import WrongIdsError, model_beside, open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.tokenizers.tokenizer_json import TokenizerJson

if TYPE_CHECKING:  # it is imported where it is used
    from tokenizers import Tokenizer as FastTokenizer

log = logging.getLogger(__name__)

_KEPT = ("bos_token", "eos_token", "unk_token", "pad_token", "model_max_length", "chat_template")


def load_exact_tokenizer(
    model: str | Path,
    *,
    field: str = "model",
    as_is: bool = False,
    add_bos_token: bool | None = None,
) -> ForeignTokenizer:
    """Return transformers' tokenizer of a folder.

    Args:
        model: the folder.
        field: the field that names it, for errors.
        as_is: take the ids of tokenizer.json unchanged.
        add_bos_token: whether encoding puts the begin token first. None: as the folder says.

    Raises:
        WrongIdsError: the folder's tokenizer.json gives other ids than its model does.
        ConfigError: the tokenizer would run code of the folder.
    """
    ours = _opened(model, field, as_is=as_is)
    inner = load_tokenizer(model, field=field, add_bos_token=add_bos_token)
    backend: FastTokenizer | None = getattr(inner, "backend_tokenizer", None)
    if ours is None or backend is None:
        return inner
    content = _content(inner, backend, ours)
    return inner if content is None else _rebuilt(inner, backend, content)


def _opened(model: str | Path, field: str, *, as_is: bool) -> TextTokenizer | None:
    """Return the folder's tokenizer. None: only transformers can read its kind.

    If a folder adds tokens to a sentencepiece model without a tokenizer.json, return the model.
    transformers knows the added tokens.
    """
    try:
        return open_tokenizer(model, field=field, as_is=as_is)
    except WrongIdsError:
        raise
    except ConfigError as error:
        opened = None if (Path(model) / TOKENIZER_FILE).is_file() else model_beside(model, field)
        if opened is None:
            log.debug("the ids of %s are transformers' own: %s", model, error)
        return opened


def _content(
    inner: ForeignTokenizer, backend: "FastTokenizer", ours: TextTokenizer
) -> TokenizerJson | None:
    """Return the tokenizer.json that gives our ids. None: transformers' own gives them."""
    theirs: TokenizerJson = json.loads(backend.to_str())
    if isinstance(ours, Tokenizer):
        if rules := broken_rules(ours):
            if type(inner).__name__ == "LlamaTokenizer":
                log.warning(
                    "%s: spaces may be cut in another way than in training: the model does not %s",
                    ours.path, " and ".join(rules),
                )  # fmt: skip
            return None
        keeps_steps = inner.init_kwargs.get("legacy") is False
        fast = json.loads(fast_tokenizer(ours, add_bos=False).to_str())
        wanted = with_steps(theirs, fast, merges_alone=keeps_steps)
    elif isinstance(ours, HfTokenizer) and is_llamas_kind(ours.content):
        wanted = with_steps(theirs, ours.content, merges_alone=False)
    else:
        return None
    return None if wanted == theirs else wanted


def _rebuilt(
    inner: ForeignTokenizer, backend: "FastTokenizer", content: TokenizerJson
) -> ForeignTokenizer:
    """Return a copy of `inner` with another tokenizer.json."""
    from tokenizers import Tokenizer as FastTokenizer
    from transformers import PreTrainedTokenizerFast

    rebuilt = PreTrainedTokenizerFast(
        tokenizer_object=FastTokenizer.from_str(json.dumps(content)),
        clean_up_tokenization_spaces=False,
        **{name: getattr(inner, name) for name in _KEPT},
    )
    # The post-processor puts <s> first if transformers was told to.
    rebuilt.backend_tokenizer.post_processor = backend.post_processor
    return cast(ForeignTokenizer, rebuilt)
