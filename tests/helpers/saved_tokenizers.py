"""What a user has who adds a token to a sentencepiece model with transformers 5."""

import json
import shutil
from pathlib import Path

from mobilellama.tokenizers.tokenizer import Tokenizer


def write_spaces_last(model: Path, path: Path) -> Path:
    """Write a model again whose pieces of spaces alone are merged last, as LLaMA's are."""
    proto = Tokenizer(model).proto
    for piece in proto.pieces:
        if len(piece.piece) > 1 and not piece.piece.strip("▁"):
            piece.score = -1e9
    path.write_bytes(proto.SerializeToString())
    return path


def save_again(model: Path, folder: Path) -> Path:
    """Load a model with transformers 5, add a token, and save it without tokenizer.model."""
    from transformers import AutoTokenizer

    first = folder / "first"
    first.mkdir(parents=True)
    shutil.copy(model, first / "tokenizer.model")
    values = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (first / "tokenizer_config.json").write_text(json.dumps(values))
    (first / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = AutoTokenizer.from_pretrained(first)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder / "base")
    return folder / "base"
