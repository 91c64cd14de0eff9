"""Tokenizers of each kind, and what transformers 5 makes of a sentencepiece model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.saved_tokenizers import save_again, write_spaces_last

KINDS = (
    "byte_level",
    "byte_level_lines",
    "byte_level_prefix",
    "prepend",
    "first",
    "always",
    "never",
)
SPECIALS = ("<|im_start|>", "<|im_end|>")
TEXTS = hostile_texts(300)
_CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


@pytest.fixture(scope="session", params=["small_tokenizer", "llama_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """The model trained on the small corpus, and LLaMA's where it is present."""
    return Tokenizer(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tokenizer of each kind, with ChatML's tokens, <s> and </s>."""
    root = tmp_path_factory.mktemp("kinds")
    return {
        kind: write_tokenizer(root / kind, kind, specials=SPECIALS, bos="<s>", eos="</s>")
        for kind in KINDS
    }


@pytest.fixture(scope="session")
def spaces_last(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose pieces of spaces alone are merged last, as LLaMA's are."""
    path = tmp_path_factory.mktemp("spaces_last") / "tokenizer.model"
    return write_spaces_last(small_tokenizer, path)


@pytest.fixture(scope="session")
def saved(spaces_last: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has who adds a token with transformers 5."""
    return save_again(spaces_last, tmp_path_factory.mktemp("saved"))


def rewrite(folder: Path, name: str, **values: Any) -> Path:
    """Set keys of a JSON file of the folder."""
    path = folder / name
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | values))
    return folder


def load(tokenizer: Tokenizer, folder: Path, *, add_bos: bool = True, **options: Any) -> Any:
    """Write the tokenizer beside a Llama's config.json, and load it with AutoTokenizer."""
    tokenizer.write_hf(folder, max_length_tokens=2048, add_bos=add_bos)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return AutoTokenizer.from_pretrained(folder, **options)


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
