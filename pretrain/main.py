"""The ``pretrain`` stage: train a language model on bucket files, look at it, export it."""

from collections.abc import Sequence
from pathlib import Path

from mobilellama.cli import Verb, run_stage

PRESETS = Path(__file__).parent / "presets"
VERBS = {
    "run": Verb(
        module="mobilellama.pretrain.run",
        help="train, or resume a run from its newest checkpoint",
        presets=PRESETS,
        is_run=True,
    ),
    "plot": Verb(
        module="mobilellama.pretrain.monitoring.plot",
        help="a run's losses, rates and speed as a picture",
    ),
    "replay": Verb(
        module="mobilellama.pretrain.replay",
        help="the text that a step was trained on",
    ),
    "export": Verb(
        module="mobilellama.pretrain.hf.export",
        help="write a checkpoint as a Hugging Face folder, and push it if asked to",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "evaluate": Verb(
        module="mobilellama.pretrain.evaluation.evaluate",
        help="score an exported model on language benchmarks, beside the published scores",
        interrupted="tasks that were scored are kept; run the same command again",
    ),
    "push": Verb(
        module="mobilellama.pretrain.hf.hub",
        help="push an exported folder to the Hugging Face Hub",
        interrupted="what was pushed stays there, and the same command pushes the rest",
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of the stage."""
    return run_stage("pretrain", __doc__ or "", VERBS, argv)
