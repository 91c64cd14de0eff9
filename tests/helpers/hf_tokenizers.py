"""Small tokenizers of the kinds that Hugging Face folders hold, trained when asked for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

TEXT = [
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "user assistant system model question answer and the other  one\n\nanother line\n",
    "one\n\n\n\nand\n\n\n\nthe other\n\n\n\none\n\n\n",
    "Give me the answer to the question, please: what is it? It is the answer, of course.",
]
# What such tokenizers cut at first: words, numbers, signs with the line breaks after them, lines.
LINES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(
    folder: Path,
    kind: str,
    *,
    specials: Sequence[str | AddedToken] = (),
    bos: str | None = None,
    eos: str | None = None,
    text: Sequence[str] = TEXT,
) -> Path:
    """Train a BPE of `kind` with special tokens on a text, and write its two files to a folder.

    Kinds: ``byte_level`` (GPT-2's, Phi-2's), ``byte_level_lines`` (Llama 3's and Qwen's, which
    keep line breaks together), ``byte_level_prefix`` (a space before each text), ``prepend``
    (LLaMA's legacy tokenizer.json), ``first``, ``always`` and ``never`` (a Metaspace that marks
    the beginning of the first text, of each, or of none).
    """
    tokenizer: Any = Tokenizer(models.BPE(byte_fallback=not kind.startswith("byte_level")))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = [name for name in (bos, eos) if name]
    if kind.startswith("byte_level"):
        prefix = kind == "byte_level_prefix"
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        if kind == "byte_level_lines":
            steps = [
                pre_tokenizers.Split(Regex(LINES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        alphabet = [chr(i) for i in range(32, 127)]
        names += [f"<0x{byte:02X}>" for byte in range(256)]
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        scheme: Any = "always" if kind == "prepend" else kind
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = BpeTrainer(
        vocab_size=700, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    value = json.loads(tokenizer.to_str())
    # The trainer makes each byte's piece a special token, which it is not.
    value["added_tokens"] = [t for t in value["added_tokens"] if not t["content"].startswith("<0x")]
    if kind == "prepend":  # trained by words as LLaMA's model was, but used without cutting them
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        steps = [{"type": "Prepend", "prepend": "▁"}, spaces]
        value |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    tokenizer = Tokenizer.from_str(json.dumps(value))
    tokenizer.add_tokens(  # add_special_tokens() would make them special whatever they say
        [
            AddedToken(t, normalized=False, special=True) if isinstance(t, str) else t
            for t in specials
        ]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    config = {key: value for key, value in config.items() if value}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
