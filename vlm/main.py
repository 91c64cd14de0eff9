"""The ``vlm`` stage: make a vision-language model of a chat model, ask it about images."""

from collections.abc import Sequence
from pathlib import Path

from mobilellama.cli import Verb, run_stage

PRESETS = Path(__file__).parent / "presets"
VERBS = {
    "check-data": Verb(
        module="mobilellama.vlm.data.check",
        help="read every record and open every image; list what cannot be trained on",
        interrupted="nothing is kept; run the same command again",
    ),
    "run": Verb(
        module="mobilellama.vlm.run",
        help="train, or resume a run from its newest checkpoint",
        presets=PRESETS,
        is_run=True,
    ),
    "export": Verb(
        module="mobilellama.vlm.formats.export",
        help="write a checkpoint as a folder: our form, or that of the published MobileVLM",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "import": Verb(
        module="mobilellama.vlm.formats.import_published",
        help="write a published MobileVLM folder in our form",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "chat": Verb(
        module="mobilellama.vlm.chat.chat",
        help="talk about images in the terminal",
        interrupted=None,
    ),
    "generate": Verb(
        module="mobilellama.vlm.chat.generate",
        help="answer a file of questions about images in batches",
        interrupted="answers that were written stay, and the same command goes on",
    ),
    "evaluate": Verb(
        module="mobilellama.vlm.benchmarks.evaluate",
        help="score a model on GQA, MME, POPE, ScienceQA, TextVQA or MMBench",
        interrupted="answers and scores that were written stay, and the same command goes on",
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of the stage."""
    return run_stage("vlm", __doc__ or "", VERBS, argv)
