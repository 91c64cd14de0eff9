r"""'tokenize run' with a tokenizer.json beside the library ``tokenizers`` alone, on one core.

- ``tokenizers``: ``encode_batch_fast`` on batches of 1 MiB of text that lie in memory. The ids stay
  in its own objects.
- ``tokenize run``: reading, parsing, encoding, ids as arrays, EOS, shuffling, hashing, fsync,
  manifest; one worker. Its start is included, in which the tokenizer is opened twice.

Run with ``--corpus`` and ``--tokenizer`` on a corpus in RedPajama's layout and a folder with
tokenizer.json; without them on Python's own library, with a byte-level BPE trained on it.

    python benchmarks/json_throughput.py --corpus CORPUS --tokenizer Llama-3 \
        --output benchmarks/results/json_throughput.json
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import paired
from own_library import library_corpus
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from mobilellama.tokenize import run
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.corpus_tokenizer import open_corpus_tokenizer


def trained_json(texts: Iterable[str], folder: Path) -> str:
    """Train a byte-level BPE of 8,000 pieces, and return the path of its tokenizer.json."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=8_000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


def main() -> None:
    options = paired.arguments(__doc__, corpus="", tokenizer="", rounds=3, warmup=1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        corpus = options.corpus or str(library_corpus(scratch / "corpus"))
        sources = SourcesConfig(root=corpus)
        counts = Counts()
        batches = [
            texts
            for slice_ in find_slices(sources, 1 << 30)
            for texts in read_documents(slice_, sources, counts)
        ]
        path = options.tokenizer
        if not path:
            path = trained_json((text for texts in batches for text in texts), scratch)
        config = run.Config(
            tokenizer=path, sources=sources, output=str(scratch / "dataset"), workers=1
        )
        opened = open_corpus_tokenizer(path)
        library = Tokenizer.from_file(str(opened.path))
        library.no_truncation()
        library.no_padding()

        def bare() -> None:
            for texts in batches:
                library.encode_batch_fast(texts, add_special_tokens=False)

        def ours() -> None:
            shutil.rmtree(config.output, ignore_errors=True)
            with contextlib.redirect_stdout(io.StringIO()):
                assert run.main(config) == 0

        summary = paired.measure(
            {"tokenizers": bare, "tokenize run": ours},
            rounds=options.rounds,
            warmup=options.warmup,
        )
    text_mb = counts.bytes_in / 1e6
    for row in summary.values():
        row["text_mb_per_cpu_s"] = round(text_mb / row["median_cpu_s"], 3)
    result = {
        "corpus": Path(options.corpus).name or "Python's library",
        "documents": sum(map(len, batches)),
        "text_mb": round(text_mb, 3),
        "vocab_size": opened.vocab_size,
        "candidates": summary,
    }
    paired.save(result, options)


if __name__ == "__main__":
    main()
