"""The card of an exported model states the run's facts."""

import json
from pathlib import Path

from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder
from tests.pretrain.helpers.trained import trained_model


def test_the_card_states_the_runs_facts(exports: dict[str, Path], tiny_run: Path) -> None:
    card = (exports["fp32"] / "README.md").read_text()
    checkpoint = Checkpoint(RunFolder(tiny_run).checkpoint(4))
    parameters = sum(p.numel() for p in trained_model(tiny_run, 4).parameters())
    records = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    loss = next(r["loss"] for r in reversed(records) if "loss" in r)
    heldout = next(r["validation_loss"] for r in reversed(records) if "validation_loss" in r)
    facts = [
        f"{parameters:,} parameters",
        "| steps | 4 of 4 |",
        f"| tokens seen | {4 * 8 * 32:,} |",
        "| learning rate | warm-up to 0.01 over 2 steps, then cosine to 0.001 at step 4 |",
        f"| all | 100.00 % | {loss:.4f} | {heldout:.4f} |",
        checkpoint.manifest.identity["data.fingerprint"],
        "| vocabulary | 832 (800 pieces) |",
        "AutoTokenizer",
        "this model has never seen it",
        "adds no `<s>`",
    ]
    assert [fact for fact in facts if fact not in card] == []
    subsets = ", ".join(
        f"`{name}`" for name in sorted(checkpoint.manifest.identity["data.mixture"])
    )
    assert f"It learnt from the texts of {subsets}: it repeats their errors" in card
    assert "license" not in card  # none was given
    assert "puts `<s>` first all the same" in (exports["bf16"] / "README.md").read_text()
