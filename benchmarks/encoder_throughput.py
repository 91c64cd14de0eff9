"""The encoder beside sentencepiece's own batch encoding, on the same texts, on one core.

- ``sentencepiece``: ``encode(texts, out_type="numpy")``, a batch of 1 MiB at a time.
- ``cold``: our encoder, new for each round, so that its memo is empty.
- ``warm``: our encoder, which has seen the texts before.

All subsets are measured one after another, as a run reads them, in so many rounds. Then each subset
is measured by itself in one round, and every id is compared. So are texts that could take the
square of their length. First of all come words that are always new, with the memory of the process.

What limits: the memo's misses of the core's caches. Random words of four letters that the memo has
take 25 to 32 ns each if up to 5,000 are different, 57 ns if 20,000 are, and 70 ns if 40,000 are.
The work is the same. Entries lie all over 16 MiB, so each word waits for one.
Cold, a unit that comes for the first time is merged for 0.9 us. In the first 0.65 MB of a subset
10,000 units are new, so there it is 8 to 10 times sentencepiece for all but LaTeX and books. The
sample of stackexchange is no longer than that.
A text that cannot be cut, such as one letter 10 million times, takes sentencepiece's own time.

Run with ``--corpus`` and ``--tokenizer`` on a corpus in RedPajama's layout; without them on
Python's own library, with a tokenizer trained on it.
"""

import base64
import random
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paired
from own_library import library_corpus, trained_tokenizer

from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.tokenizer import Tokenizer

Batches = list[list[str]]

_NEW_WORDS_MB = 40


def subsets(sources: SourcesConfig) -> dict[str, Batches]:
    found: dict[str, Batches] = {}
    for slice_ in find_slices(sources, 1 << 30):
        found.setdefault(slice_.subset, []).extend(read_documents(slice_, sources, Counts()))
    return found


def hostile(size: int) -> dict[str, Batches]:
    """Return single documents of about `size` bytes."""
    chance = random.Random(1)
    letters = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=size))
    return {
        "random letters, no space": [[letters]],
        "one letter": [["x" * size]],
        "newlines": [["\n" * size]],
        "spaces": [[" " * size]],
        "digits": [["0123456789" * (size // 10)]],
        "units of 250 letters": [[" ".join(letters[i : i + 250] for i in range(0, size, 250))]],
        "units of 260 letters": [[" ".join(letters[i : i + 260] for i in range(0, size, 260))]],
        "characters without a piece": [["\U000e0041" * (size // 4)]],
        "literal U+2581": [["\u2581a" * (size // 4)]],
        "tabs": [["\t" * size]],
        "pairs of letters": [["ab" * (size // 2)]],
        "spaces and newlines in turn": [[" \n" * (size // 2)]],
        "glued words": [[_glued(chance, size)]],
        "glued words of 200 letters": [[" ".join(_glued(chance, 200) for _ in range(size // 201))]],
        "CJK of random characters": [[_characters(chance, 0x4E00, 0x9FFF, size // 3)]],
        "Japanese of random syllables": [[_characters(chance, 0x3041, 0x3096, size // 3)]],
        "emoji": [[_characters(chance, 0x1F600, 0x1F64F, size // 4)]],
        "base64": [[base64.b64encode(chance.randbytes(size * 3 // 4)).decode()]],
        "hexadecimal": [[chance.randbytes(size // 2).hex()]],
        "a script without spaces": [[_minified(chance, size)]],
    }


_WORDS = "the of and to in for is on that by this with you it not or be are from at as your".split()


def _glued(chance: random.Random, size: int) -> str:
    return "".join(chance.choices(_WORDS, k=size))[:size]


def _characters(chance: random.Random, first: int, last: int, count: int) -> str:
    return "".join(map(chr, chance.choices(range(first, last + 1), k=count)))


def _minified(chance: random.Random, size: int) -> str:
    parts = ["function", "return", "var", "(", ")", "{", "}", ";", "=", "this.", "a", "e", "t", "n"]
    return "".join(chance.choices(parts, k=size))[:size]


def new_words(mb: int) -> Iterator[list[str]]:
    """Yield batches of words that never come again."""
    chance = random.Random(2)
    for _ in range(mb):
        yield [
            " ".join(f"{chance.getrandbits(45):09x}".translate(_LETTERS) for _ in range(1 << 16))
        ]


_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def compare(tokenizer: Tokenizer, batches: Batches) -> dict[str, Any]:
    """Compare all ids, then measure one round."""
    fast, plain = Encoder(tokenizer), Encoder(tokenizer, plain=True)
    tokens = different = 0
    for texts in batches:
        (ids, lengths), (ids_plain, lengths_plain) = (
            encoder.encode_batch(texts) for encoder in (fast, plain)
        )
        tokens += len(ids_plain)
        same = np.array_equal(ids, ids_plain) and np.array_equal(lengths, lengths_plain)
        different += not same
    return {
        "tokens": tokens,
        "batches_with_other_ids": different,
        **measure(tokenizer, batches, 1),
    }


def measure(tokenizer: Tokenizer, batches: Batches, rounds: int) -> dict[str, Any]:
    """Measure the three candidates on the batches."""
    fast = Encoder(tokenizer)
    assert fast.is_fast

    def sentencepiece() -> None:
        for texts in batches:
            tokenizer.processor.encode(texts, out_type="numpy", num_threads=1)

    def run(encoder: Encoder) -> None:
        for texts in batches:
            encoder.encode_batch(texts)

    run(fast)
    waiting = [Encoder(tokenizer) for _ in range(rounds)]  # to build one is not measured
    candidates: dict[str, Callable[[], object]] = {
        "sentencepiece": sentencepiece,
        "cold": lambda: run(waiting.pop()),
        "warm": lambda: run(fast),
    }
    summary = paired.measure(candidates, rounds=rounds, warmup=0)
    size = sum(len(text.encode()) for texts in batches for text in texts) / 1e6
    for row in summary.values():
        row["text_mb_per_cpu_s"] = round(size / row["median_cpu_s"], 2)
        row["times_sentencepiece"] = round(1 / row["ratio"], 2)
        for name in ("ratio", "ratio_min", "ratio_max"):
            row[name] = round(row[name], 5)
    return {"text_mb": round(size, 3), **summary}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1e6, 1)


def memory_over_new_words(tokenizer: Tokenizer) -> dict[str, Any]:
    encoder = Encoder(tokenizer)
    seen, size = [], 0
    for i, texts in enumerate(new_words(_NEW_WORDS_MB)):
        encoder.encode_batch(texts)
        size += len(texts[0])
        if i % (_NEW_WORDS_MB // 8) == 1:
            seen.append(resident_mb())
    assert encoder._fast is not None
    memo = encoder._fast.memo
    return {
        "text_mb": round(size / 1e6, 1),
        "units_merged": int(memo.counts[2]),
        "memo_mb": round(memo.total_bytes / 1e6, 1),
        "resident_mb_at_eighths": seen,
    }


def main() -> None:
    options = paired.arguments(__doc__, corpus="", tokenizer="", rounds=3, hostile_bytes=10_000_000)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        corpus = options.corpus or str(library_corpus(scratch / "corpus"))
        tokenizer = Tokenizer(options.tokenizer or trained_tokenizer(corpus, scratch))
        sources = SourcesConfig(root=corpus)
        memory = memory_over_new_words(tokenizer)
        by_subset = subsets(sources)
        everything = [texts for batches in by_subset.values() for texts in batches]
        result = {
            "corpus": Path(options.corpus).name or "Python's library",
            "vocab_size": tokenizer.vocab_size,
            "all": measure(tokenizer, everything, options.rounds),
            "subsets": {name: compare(tokenizer, batches) for name, batches in by_subset.items()},
            "hostile": {
                name: compare(tokenizer, batches)
                for name, batches in hostile(options.hostile_bytes).items()
            },
            "new_words": memory,
        }
    paired.save(result, options)


if __name__ == "__main__":
    main()
