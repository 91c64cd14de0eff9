"""The main job on real text, in minutes on two CPU cores: ``make demo``.

Every step is a command that is printed before it runs, and is the command that a cluster
runs: only the preset is smaller.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from corpus import build_corpus

from mobilellama.progress import format_duration
from mobilellama.run_folder import RunFolder
from mobilellama.shards.mixture import PERIOD
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset

HERE = Path(os.path.relpath(Path(__file__).parent))
VOCAB_SIZE = 4096
SEQ_LEN = 256


def main() -> int:
    """Run the demo into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="made anew")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps")
    options = parser.parse_args()
    out: Path = options.output
    started_s = time.monotonic()
    start_anew(out)

    say("1  real text from this machine, laid out as RedPajama v1")
    for subset, size in build_corpus(out / "corpus").items():
        print(f"   {subset:<14} {size / 1e6:5.1f} MB")

    say("2  a sentencepiece tokenizer, since LLaMA's cannot be downloaded here")
    corpus, tokenizer, dataset = out / "corpus", out / "tokenizer.model", out / "dataset"
    mobilellama(
        "tokenize train-tokenizer", sources__root=corpus, output=tokenizer, vocab_size=VOCAB_SIZE
    )

    say("3  text to bucket files")
    mobilellama(
        "tokenize run", tokenizer=tokenizer, sources__root=corpus, output=dataset,
        heldout_share=0.01, workers=2,
    )  # fmt: skip

    say("4  a look at the shards")
    order = {"path": dataset, "seq_len": SEQ_LEN, "mixture": HERE / "mixture.yaml"}
    mobilellama("shards verify", path=dataset)
    mobilellama("shards info", **order)
    mobilellama("shards show", **order, position=0)
    mobilellama("shards plot", **order, output=out / "dataset.png")

    say("5  pretraining: DeepSpeed ZeRO-1 on two processes, interrupted, and resumed")
    run = RunFolder(out / "run")
    training = {
        "config": "demo",
        "data.path": dataset,
        "data.mixture": HERE / "mixture.yaml",
        "run.folder": run.path,
        "train.max_steps": options.steps,
    }
    interrupt(command("pretrain run", training), run, after_step=options.steps // 2)
    mobilellama("pretrain run", **training)

    say("6  the loss curve")
    entropy = unigram_entropy(dataset)
    mobilellama("pretrain plot", run=run.path, output=out / "loss.png", baseline=round(entropy, 4))

    say("7  a Hugging Face folder, loaded by transformers alone")
    mobilellama("pretrain export", checkpoint=run.path, output=out / "model")
    execute([sys.executable, str(HERE / "generate.py"), str(out / "model")])
    return report(out, run, entropy, time.monotonic() - started_s)


def start_anew(out: Path) -> None:
    """Make the folder, or empty one that an earlier demo has made; touch no other."""
    mark = out / ".made-by-demo"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        sys.exit(f"demo: --output = {out}: holds files that no demo has made. Give another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def say(title: str) -> None:
    """Print the title of a part."""
    print(f"\n=== {title}", flush=True)


def command(verb: str, fields: dict[str, object]) -> list[str]:
    """Return the command line; ``a__b`` stands for ``a.b``."""
    pairs = [(f"--{name.replace('__', '.')}", str(value)) for name, value in fields.items()]
    arguments = [part for pair in pairs for part in pair]
    return [sys.executable, "-m", "mobilellama", *verb.split(), *arguments]


def mobilellama(verb: str, **fields: object) -> None:
    """Run one of the project's commands."""
    execute(command(verb, fields))


def show(argv: Iterable[str]) -> None:
    """Print a command as a user would type it."""
    line = " ".join(argv).replace(f"{sys.executable} -m mobilellama", "mobilellama")
    print(f"$ {line.replace(sys.executable, 'python')}", flush=True)


def execute(argv: list[str]) -> None:
    """Run a command; end the demo if it fails."""
    show(argv)
    done = subprocess.run(argv, check=False)
    if done.returncode:
        sys.exit(f"demo: the command above ended with exit code {done.returncode}")


def interrupt(argv: list[str], run: RunFolder, *, after_step: int) -> None:
    """Start a command and press Ctrl-C once the run is so far."""
    show(argv)
    process = subprocess.Popen(argv, start_new_session=True)
    try:
        while steps_done(run) < after_step:
            if process.poll() is not None:
                sys.exit("demo: training ended before it could be interrupted")
            time.sleep(0.2)
        print("\n(demo: Ctrl-C)\n", flush=True)
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
    finally:
        if process.poll() is None:  # the demo itself is being stopped
            os.killpg(process.pid, signal.SIGTERM)
    verdict = run.read_verdict()
    assert verdict is not None
    print(f"\nverdict.json: {verdict.message}\n", flush=True)
    if verdict.kind != "stopped":
        sys.exit("demo: the run should have been stopped")


def steps_done(run: RunFolder) -> int:
    """Return the last step in metrics.jsonl."""
    return max((record["step"] for record in run.read_metrics()), default=0)


def unigram_entropy(folder: Path) -> float:
    """Return the entropy of single tokens under the mixture, in nats: what counting alone gets."""
    dataset = TokenDataset(folder)
    mixture, _ = open_order(dataset, seq_len=SEQ_LEN, mixture=str(HERE / "mixture.yaml"), seed=0)
    shares = np.zeros(VOCAB_SIZE)
    for subset, positions in mixture.identity().items():
        counts = np.zeros(VOCAB_SIZE)
        for row in dataset.rows:
            if row["subset"] == subset:
                ids = dataset.bucket_tokens(f"{subset}/{row['bucket']:05}", row["tokens"])
                counts += np.bincount(ids, minlength=VOCAB_SIZE)
        shares += positions / PERIOD * counts / counts.sum()
    seen = shares[shares > 0]
    return float(-(seen * np.log(seen)).sum())


def report(out: Path, run: RunFolder, entropy: float, elapsed_s: float) -> int:
    """Print what was made, where, and how to look further; fail if nothing was learnt."""
    records = run.read_metrics()
    training = [record["loss"] for record in records if "loss" in record][-1]
    heldout = [r["validation_loss"] for r in records if "validation_loss" in r][-1]
    say(f"done in {format_duration(elapsed_s)}")
    print(f"""
unigram entropy of the data   {entropy:.3f} nats a token (what counting tokens alone achieves)
loss, training                {training:.3f}
loss, held-out documents      {heldout:.3f}

made
  {out}/corpus/            text in RedPajama's layout
  {out}/dataset/           bucket files; picture: {out}/dataset.png
  {out}/run/               checkpoints, metrics.jsonl, TensorBoard
  {out}/loss.png           the loss curve
  {out}/model/             the Hugging Face folder

look further
  source .venv/bin/activate
  tensorboard --logdir {out}/run
  mobilellama pretrain replay --run {out}/run --step 1
  mobilellama shards info --path {out}/dataset --mixture {HERE}/mixture.yaml
  python {HERE}/generate.py {out}/model""")
    if heldout > entropy - 1.0:
        print("\ndemo: the held-out loss should be at least 1 nat below the unigram entropy")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
