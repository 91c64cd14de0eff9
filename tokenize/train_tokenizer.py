"""Train a sentencepiece BPE model with LLaMA's settings on a sample of a corpus.

  mobilellama tokenize train-tokenizer --sources.root CORPUS --output tokenizer.model

The settings are those of LLaMA's own model file: byte fallback, identity normaliser, dummy
prefix, split digits, pieces of only spaces, <unk> 0, <s> 1, </s> 2. The sample is taken from all
subsets and from many files. The same corpus gives the same model, byte for byte.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama import log as logs
from mobilellama import signals
from mobilellama.config import ConfigError, one_line, require_at_least, require_share
from mobilellama.files.atomic import whole_file
from mobilellama.progress import format_amount, format_count
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.sources.config import JSONL, SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices

# Longer lines are cut: sentencepiece leaves out sentences above a limit, and a limit without
# bound lets one line of base64 dominate the time.
_LINE_CHARACTERS = 4096
_LARGEST_SENTENCE_BYTES = 4 * _LINE_CHARACTERS

_LARGEST_VOCABULARY = 1_000_000

_UNPACKED = 4  # bytes of text that a compressed byte usually holds

_LLAMA_SETTINGS = {
    "model_type": "bpe",
    "character_coverage": 0.99995,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "max_sentence_length": _LARGEST_SENTENCE_BYTES,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'tokenize train-tokenizer'."""

    sources: SourcesConfig
    """The corpus."""
    output: str
    """Path of the .model file, which must not exist."""
    vocab_size: int = 32_000
    """Number of pieces, including <unk>, <s>, </s> and 256 byte pieces."""
    sample_bytes: int = 200_000_000
    """UTF-8 bytes of text to train on. Training needs a few times as much memory."""
    slice_bytes: int = 1 << 30
    """A larger uncompressed file is sampled at several places."""
    max_bad_share: float = 0.001
    """A slice fails if a larger share of its sampled records is bad. 10 are always allowed."""

    def __post_init__(self) -> None:
        require_at_least("vocab_size", self.vocab_size, 3 + 256 + 1)
        require_at_least("sample_bytes", self.sample_bytes, 1)
        require_at_least("slice_bytes", self.slice_bytes, 1)
        require_share("max_bad_share", self.max_bad_share)
        if self.vocab_size > _LARGEST_VOCABULARY:
            rule = f"must be at most {_LARGEST_VOCABULARY:,}"
            raise ConfigError("vocab_size", self.vocab_size, rule, "32000 is LLaMA's")
        self.sources.require_outside(self.output)


def main(config: Config) -> int:
    """Sample, train, write the model."""
    logs.configure()
    output = Path(config.output)
    if output.exists():
        rule = "exists already, and a dataset may depend on it"
        raise ConfigError("output", config.output, rule, "Give another path, or remove it")
    slices = find_slices(config.sources, config.slice_bytes)
    _make_place(output)
    quotas = share_out(slices, config.sample_bytes)
    sample = _Sample(config, slices, quotas)
    model = train(iter(sample), config.vocab_size)
    with whole_file(output) as file:
        file.write(model)
    print(
        f"{config.output}: {config.vocab_size:,} pieces from "
        f"{format_amount(sample.used_bytes / 1e6, 'MB')} of text in "
        f"{format_count(len(slices), 'slice')}"
    )
    return 0


def _make_place(output: Path) -> None:
    """Make the folder of the output, before the training and not after it."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"its folder cannot be made ({error.strerror})"
        raise ConfigError("output", str(output), rule, "Give another path") from None
    if not os.access(output.parent, os.W_OK | os.X_OK):
        rule = f"{output.parent} may not be written to"
        raise ConfigError("output", str(output), rule, "Give another path")


def share_out(slices: Sequence[Slice], sample_bytes: int) -> list[int]:
    """Return how many bytes of text to take from each slice.

    Subsets get equal parts, and within a subset the slices do; what a small one cannot give
    goes to the others.
    """
    sizes: dict[str, list[int]] = {}
    for slice_ in slices:
        sizes.setdefault(slice_.subset, []).append(_capacity(slice_, sample_bytes))
    parts = _fill([sum(mine) for mine in sizes.values()], sample_bytes)
    return [
        quota
        for mine, part in zip(sizes.values(), parts, strict=True)
        for quota in _fill(mine, part)
    ]


def _capacity(slice_: Slice, sample_bytes: int) -> int:
    """Return about how many bytes of text a slice can give."""
    if slice_.unit != "bytes":
        return sample_bytes
    size = slice_.end - slice_.start
    source = slice_.source.partition("#")[0]
    return size if source.endswith((JSONL, ".csv")) else _UNPACKED * size


def _fill(capacities: Sequence[int], amount: int) -> list[int]:
    """Divide `amount` equally, but give no one more than its capacity."""
    parts = [0] * len(capacities)
    smallest_first = sorted(range(len(capacities)), key=lambda i: capacities[i])
    for done, i in enumerate(smallest_first):
        parts[i] = min(capacities[i], amount // (len(capacities) - done))
        amount -= parts[i]
    return parts


class _Sample:
    """The lines to train on: the first documents of each slice, up to its quota."""

    def __init__(self, config: Config, slices: Sequence[Slice], quotas: Sequence[int]) -> None:
        self._config, self._slices, self._quotas = config, slices, quotas
        self.used_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for slice_, quota in zip(self._slices, self._quotas, strict=True):
            counts = Counts()
            for text in self._documents(slice_, quota, counts):
                yield from _lines(text)
            counts.require_few_bad(slice_.source, self._config.max_bad_share)

    def _documents(self, slice_: Slice, quota: int, counts: Counts) -> Iterator[str]:
        for texts in read_documents(slice_, self._config.sources, counts):
            for text in texts:
                if quota <= 0:
                    return
                # Of a document that alone is too much, the beginning.
                text = text[:quota]
                size = len(text.encode())
                quota -= size
                self.used_bytes += size
                yield text


def _lines(text: str) -> Iterator[str]:
    # No piece may hold a line break (LLaMA's have none), nor a NUL, which ends C's strings.
    for line in text.replace("\0", "\n").split("\n"):
        for start in range(0, len(line), _LINE_CHARACTERS):
            yield line[start : start + _LINE_CHARACTERS]


def train(lines: Iterator[str], vocab_size: int) -> bytes:
    """Return a trained model's bytes.

    Raises:
        ConfigError: the text is too small, or too large in its alphabet, for `vocab_size`.
        Exception: what `lines` raised.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    failed: list[Exception] = []

    def watched() -> Iterator[str]:
        try:
            yield from lines
        except Exception as error:
            failed.append(error)
            raise

    try:
        with signals.leaving_at_once():
            SentencePieceTrainer.train(
                sentence_iterator=watched(),
                model_writer=model,
                vocab_size=vocab_size,
                minloglevel=2,
                **_LLAMA_SETTINGS,
            )
    except (RuntimeError, OSError) as error:
        if failed:  # sentencepiece makes its own error of the reader's
            raise failed[0] from None
        raise ConfigError(
            "vocab_size",
            vocab_size,
            f"does not fit the text ({one_line(error)})",
            "Give more text (sample_bytes, sources), or another size",
        ) from None
    return model.getvalue()
