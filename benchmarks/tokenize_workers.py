r"""CPU time of 'tokenize run' with two workers and with one, for the same work.

- ``1 worker``, ``2 workers``: the command on the corpus.
- ``two at once``: the control. Two commands with one worker each, at the same time, and half of
  their CPU time together: what two busy cores cost each other, with nothing in common.
- ``start of 1``, ``start of 2``: the commands on two sources of a line each, so that each worker
  starts, and loads its encoder.

    python benchmarks/tokenize_workers.py --corpus CORPUS --tokenizer tokenizer.model --copies 7 \
        --output benchmarks/results/tokenize_workers.json
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import paired
from own_library import library_corpus, trained_tokenizer
from tokenize_throughput import one_line, repeat


def main() -> None:
    options = paired.arguments(__doc__, corpus="", tokenizer="", rounds=5, copies=1)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        corpus = Path(options.corpus) if options.corpus else library_corpus(scratch / "library")
        corpus = repeat(corpus, scratch / "corpus", options.copies)
        model = options.tokenizer or trained_tokenizer(corpus, scratch)
        lines = one_line(scratch / "lines")
        shutil.copy(lines / "c4" / "part.jsonl", lines / "c4" / "another.jsonl")
        both = partial(tokenize, model=model, scratch=scratch)
        seconds = paired.seconds_of(
            {
                "1 worker": lambda: both(corpus, [1]),
                "2 workers": lambda: both(corpus, [2]),
                "two at once": lambda: both(corpus, [1, 1]),
                "start of 1": lambda: both(lines, [1]),
                "start of 2": lambda: both(lines, [2]),
            },
            rounds=options.rounds,
        )
    seconds["two at once"] = [value / 2 for value in seconds["two at once"]]
    paired.save(
        {
            "corpus": Path(options.corpus).name or "Python's library",
            "copies": options.copies,
            "candidates": paired.relate(seconds),
            "2 workers / 1 worker, each without its start": without_start(seconds),
        },
        options,
    )


def without_start(seconds: dict[str, list[float]]) -> list[float]:
    """Return the median, least and greatest ratio of the work alone."""
    ratios = [
        (two - start_of_2) / (one - start_of_1)
        for one, two, _, start_of_1, start_of_2 in zip(*seconds.values(), strict=True)
    ]
    return [round(of(ratios), 3) for of in (statistics.median, min, max)]


def tokenize(corpus: Path, workers: list[int], *, model: str, scratch: Path) -> None:
    """Run the command as often as there are numbers of workers, all at the same time."""
    running = []
    for i, count in enumerate(workers):
        output = scratch / f"dataset-{i}"
        shutil.rmtree(output, ignore_errors=True)
        given = {
            "tokenizer": model, "sources.root": corpus, "output": output, "workers": count,
        }  # fmt: skip
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "mobilellama", "tokenize", "run", *words],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        )  # fmt: skip
    ends = [process.wait() for process in running]
    assert not any(ends), ends


if __name__ == "__main__":
    main()
