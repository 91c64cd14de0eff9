r"""Tokenise throughput: our whole path from .jsonl to finished dataset, beside peers and its parts.

All encode the same documents with the same model on one core, and none without its own start:

- ``sentencepiece``: ``encode(text)``, a document at a time, over texts that lie in memory.
- ``encoder alone``: ours, in batches over texts that lie in memory, its memo empty at first.
- ``tokenize run``: reading, parsing, batches, encoding, shuffling, hashing, fsync, manifest;
  one worker, its start included.
- ``start``: the same command on one line, which is what the command costs before it encodes.
- ``datatrove``, ``megatron``: the peers' commands (tokenize_peers.py), where the options name them.

The peers' tokens are counted, and must be as many as ours. "not_run" says which peers were left
out. ``--copies`` writes each source so many times, for a corpus beside which the start is small;
the memo knows all words of the second copy, so the encoder is faster than on as much new text.
``--slow no`` leaves out sentencepiece.

What the command does beside encoding, in CPU seconds for 521 MB of text that the memo knows
(``--copies 7``), each part timed within one process that took 6.4 s, and the encoder 3.8 s of it:

    lines and JSON                          0.8   orjson, which makes the texts: 0.7
    source read and hashed                  0.4   sha256: 0.32
    bytes of each text counted, batches     0.3   one more encoding to UTF-8: 0.14
    one document in 2,000 checked           0.3   the first of each bucket 0 is; one is a long book
    .bin hashed and written                 0.3   sha256: 0.19
    ids spooled and shuffled                0.2
    zstd, order, .idx, receipts, fsync      0.2

Reading, parsing, unpacking, two hashes and one write cannot be left out. They take about 1.5 s, so
that 1.4 times the encoder is the least here. New text keeps the encoder busy for longer.

Run with ``--corpus`` and ``--tokenizer`` on a corpus in RedPajama's layout; without them on
Python's own library, with a tokenizer trained on it.

    python benchmarks/tokenize_throughput.py --corpus CORPUS --tokenizer tokenizer.model \
        --datatrove_python peers/bin/python --megatron_script Megatron-LM/tools/preprocess_data.py \
        --output benchmarks/results/tokenize_throughput.json
"""

import argparse
import contextlib
import io
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import paired
import tokenize_peers
from own_library import library_corpus, trained_tokenizer

from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize import run
from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.tokenizer import Tokenizer


def main() -> None:
    options = paired.arguments(
        __doc__, corpus="", tokenizer="", rounds=5, copies=1, slow="yes",
        datatrove_python="", megatron_script="",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options, Path(temporary))
    paired.save(result, options)


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """Return the figures of all candidates on the corpus."""
    corpus = Path(options.corpus) if options.corpus else library_corpus(scratch / "library")
    if options.copies > 1:
        corpus = repeat(corpus, scratch / "corpus", options.copies)
    model = options.tokenizer or trained_tokenizer(corpus, scratch)
    batches, counts = read_batches(corpus)
    ours = Ours(corpus, model, scratch / "dataset")
    ours()  # the kernel is compiled, the files are in the page cache
    tokens = ours.tokens()
    candidates: dict[str, Callable[[], object]] = {}
    if options.slow == "yes":
        candidates["sentencepiece"] = lambda: plain(model, batches)
    candidates |= {"encoder alone": lambda: encode(model, batches), "tokenize run": ours}
    candidates["start"] = Ours(one_line(scratch / "line"), model, scratch / "small")
    peers, not_run = find_peers(corpus, model, batches, scratch, options)
    seconds = paired.seconds_of(candidates | peers, rounds=options.rounds, warmup=0)
    for name, peer in peers.items():
        assert peer.tokens() == tokens, f"{name}: {peer.tokens():,} tokens, ours {tokens:,}"
    summary = paired.relate(seconds)
    for row in summary.values():
        row["text_mb_per_cpu_s"] = round(counts.bytes_in / 1e6 / row["median_cpu_s"], 3)
    del summary["start"]["text_mb_per_cpu_s"]
    return {
        "corpus": Path(options.corpus).name or "Python's library",
        "copies": options.copies,
        "documents": sum(map(len, batches)),
        "text_mb": round(counts.bytes_in / 1e6, 3),
        "tokens": tokens,
        "vocab_size": Tokenizer(model).vocab_size,
        "candidates": summary,
        "ratios": ratios(seconds, list(peers)),
        "not_run": not_run,
    }


def ratios(seconds: dict[str, list[float]], peers: list[str]) -> dict[str, list[float]]:
    """Return median, least and greatest ratio, over the rounds, of CPU times at the same work."""
    whole, alone, start = (seconds[name] for name in ("tokenize run", "encoder alone", "start"))
    started = [a - b for a, b in zip(whole, start, strict=True)]
    compared = {"tokenize run / encoder alone": (whole, alone)}
    compared["tokenize run without its start / encoder alone"] = (started, alone)
    for peer in peers:
        compared[f"{peer} / tokenize run"] = seconds[peer], whole
        compared[f"{peer} / tokenize run without its start"] = seconds[peer], started
    found = {}
    for name, (above, below) in compared.items():
        values = [a / b for a, b in zip(above, below, strict=True)]
        found[name] = [round(of(values), 3) for of in (statistics.median, min, max)]
    return found


class Ours:
    """The command 'tokenize run' with one worker, on a corpus, into a folder made anew."""

    def __init__(self, corpus: Path, model: str, output: Path) -> None:
        self._config = run.Config(
            tokenizer=model, sources=SourcesConfig(root=str(corpus)), output=str(output), workers=1
        )

    def __call__(self) -> None:
        """Tokenise the corpus."""
        shutil.rmtree(self._config.output, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            assert run.main(self._config) == 0

    def tokens(self) -> int:
        """Return how many tokens the last run wrote, EOS included."""
        totals = TokenDataset(self._config.output).totals
        return sum(counts["tokens"] for counts in totals.values())


def plain(model: str, batches: list[list[str]]) -> None:
    """Encode the texts with sentencepiece."""
    processor = Tokenizer(model).processor
    for text in itertools.chain.from_iterable(batches):
        processor.encode(text)


def encode(model: str, batches: list[list[str]]) -> None:
    """Encode the texts with our encoder, from an empty memo."""
    encoder = Encoder(Tokenizer(model))
    for batch in batches:
        encoder.encode_batch(batch)


def find_peers(
    corpus: Path, model: str, batches: list[list[str]], scratch: Path, options: argparse.Namespace
) -> tuple[dict[str, tokenize_peers.Peer], dict[str, str]]:
    """Return the peers that the options name, and why others are not run."""
    peers, not_run = {}, {}
    if options.datatrove_python:
        peers["datatrove"] = tokenize_peers.datatrove(
            options.datatrove_python, corpus, Tokenizer(model), scratch
        )
    else:
        not_run["datatrove"] = "--datatrove_python is not given"
    if options.megatron_script:
        texts = itertools.chain.from_iterable(batches)
        peers["megatron"] = tokenize_peers.megatron(options.megatron_script, texts, model, scratch)
    else:
        not_run["megatron"] = "--megatron_script is not given"
    return peers, not_run


def read_batches(corpus: Path) -> tuple[list[list[str]], Counts]:
    """Return the corpus's texts, in the batches that 'tokenize run' encodes, and their counts."""
    sources, counts = SourcesConfig(root=str(corpus)), Counts()
    slices = find_slices(sources, run.Config.slice_bytes)
    return [batch for part in slices for batch in read_documents(part, sources, counts)], counts


def one_line(root: Path) -> Path:
    """Write a corpus of one short document."""
    (root / "c4").mkdir(parents=True)
    (root / "c4" / "part.jsonl").write_text('{"text": "a text"}\n')
    return root


def repeat(corpus: Path, root: Path, copies: int) -> Path:
    """Write a corpus with each source so many times, one copy after another."""
    for path in corpus.rglob("*.jsonl*"):
        target = root / path.relative_to(corpus)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() * copies)  # lines, or frames of zstd
    return root


if __name__ == "__main__":
    main()
