"""What the demo has learnt, in figures; and whether that is enough."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilellama.run_folder import RunFolder
from mobilellama.shards.mixture import PERIOD
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset


def unigram_entropy(folder: Path, *, mixture: Path, seq_len: int) -> float:
    """Return the entropy of single tokens under a mixture, in nats: what counting alone gets."""
    dataset = TokenDataset(folder)
    order, _ = open_order(dataset, seq_len=seq_len, mixture=str(mixture), seed=0)
    shares = np.zeros(dataset.identity.vocab_size)
    for subset, share in order.identity().items():
        counts = np.zeros_like(shares)
        for row in dataset.manifest:
            if row["subset"] == subset:
                ids = dataset.bucket_tokens(f"{subset}/{row['bucket']:05}", row["tokens"])
                counts += np.bincount(ids, minlength=len(shares))
        shares += share / PERIOD * counts / counts.sum()
    seen = shares[shares > 0]
    return float(-(seen * np.log(seen)).sum())


def losses(run: RunFolder, name: str) -> list[float]:
    """Return a run's values of a loss, oldest first; the step-0 validation too, if it made one."""
    return [record[name] for record in run.read_metrics() if name in record]


def exact_match(answers: Path) -> float:
    """Return the share of the rows of 'sft generate' whose answer is the one expected."""
    rows = read_rows(answers)
    return sum(row["answer"] == row["expected"] for row in rows) / len(rows)


def constant_match(prompts: Path) -> float:
    """Return the exact match of the best single answer to all prompts."""
    rows = read_rows(prompts)
    return Counter(row["expected"] for row in rows).most_common(1)[0][1] / len(rows)


def some_answers(base: Path, chat: Path, *, count: int = 4) -> str:
    """Return the first prompts of two files of 'sft generate' with what both models said."""
    lines = []
    for before, after in list(zip(read_rows(base), read_rows(chat), strict=True))[:count]:
        lines += [before["prompt"], f"  base  {before['answer']!r}", f"  chat  {after['answer']!r}"]
    return "\n".join(lines)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """The figures that the demo ends with; losses in nats a token."""

    entropy: float
    """Of single tokens of the pretraining data."""
    training_loss: float
    heldout_loss: float
    """On documents that pretraining did not see."""
    answer_loss_before: float
    """Of the base model, on the answers of conversations that finetuning does not see."""
    answer_loss_after: float
    match_before: float
    """Exact match of the base model, on questions that finetuning does not see."""
    match_after: float
    match_constant: float
    """Exact match of the best single answer."""

    def table(self) -> str:
        """Return the figures as lines."""
        before, after = f"{self.answer_loss_before:.3f}", f"{self.answer_loss_after:.3f}"
        return f"""
pretraining
  unigram entropy of the data   {self.entropy:.3f} nats a token (what counting alone achieves)
  loss, training                {self.training_loss:.3f}
  loss, held-out documents      {self.heldout_loss:.3f}
finetuning, on definitions that are held out   base    chat
  loss of the answers                          {before:<7} {after}
  exact match, kind of object                  {self.match_before:<7.1%} {self.match_after:.1%}
  the same, best single answer                 {self.match_constant:.1%}"""

    def shortfalls(self) -> list[str]:
        """Return what should have been learnt and was not."""
        checks = {
            "the held-out loss should be at least 1 nat below the unigram entropy": (
                self.heldout_loss <= self.entropy - 1.0
            ),
            "finetuning should take at least 1 nat off the loss of held-out answers": (
                self.answer_loss_after <= self.answer_loss_before - 1.0
            ),
            "the exact match should be twice the base model's and the best single answer's": (
                self.match_after >= 2 * max(self.match_before, self.match_constant)
            ),
        }
        return [rule for rule, holds in checks.items() if not holds]
