r"""Tokenise throughput: our whole path from .jsonl to finished dataset beside bare sentencepiece.

Both candidates encode the same documents with the same model on one core:

- ``sentencepiece``: ``encode(text)``, a document at a time, over texts that lie in memory.
- ``tokenize run``: reading, parsing, batches, encoding, shuffling, hashing, fsync, manifest;
  one worker, its start included.

Run with ``--corpus`` and ``--tokenizer`` on a corpus in RedPajama's layout; without them on
Python's own library, with a tokenizer trained on it.

    python benchmarks/tokenize_throughput.py --corpus CORPUS --tokenizer tokenizer.model \
        --output benchmarks/results/tokenize_throughput.json
"""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

import paired
from own_library import library_corpus, trained_tokenizer

from mobilellama.tokenize import run
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.tokenizer import Tokenizer


def main() -> None:
    options = paired.arguments(__doc__, corpus="", tokenizer="", rounds=5)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        corpus = options.corpus or str(library_corpus(scratch / "corpus"))
        sources = SourcesConfig(root=corpus)
        model = options.tokenizer or trained_tokenizer(corpus, scratch)
        config = run.Config(
            tokenizer=model, sources=sources, output=str(scratch / "dataset"), workers=1
        )
        counts = Counts()
        texts = [
            text
            for slice_ in find_slices(sources, config.slice_bytes)
            for batch in read_documents(slice_, sources, counts)
            for text in batch
        ]
        processor = Tokenizer(model).processor

        def bare() -> None:
            for text in texts:
                processor.encode(text)

        def ours() -> None:
            shutil.rmtree(config.output, ignore_errors=True)
            with contextlib.redirect_stdout(io.StringIO()):
                assert run.main(config) == 0

        summary = paired.measure(
            {"sentencepiece": bare, "tokenize run": ours}, rounds=options.rounds
        )
    text_mb = counts.bytes_in / 1e6
    for row in summary.values():
        row["text_mb_per_cpu_s"] = round(text_mb / row["median_cpu_s"], 3)
    corpus_name = Path(options.corpus).name or "Python's library"
    paired.save(
        {
            "corpus": corpus_name,
            "documents": len(texts),
            "text_mb": round(text_mb, 3),
            "vocab_size": processor.vocab_size(),
            "candidates": summary,
        },
        options,
    )


if __name__ == "__main__":
    main()
