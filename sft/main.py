"""The ``sft`` stage: make a chat model of a language model, talk to it, export it."""

from collections.abc import Sequence
from pathlib import Path

from mobilellama.cli import Verb, run_stage

PRESETS = Path(__file__).parent / "presets"
VERBS = {
    "prepare": Verb(
        module="mobilellama.sft.prepare",
        help="conversations to packed, masked rows: a dataset folder",
        interrupted="finished buckets stay, and the same command goes on",
    ),
    "run": Verb(
        module="mobilellama.sft.run",
        help="finetune, or resume a run from its newest checkpoint",
        presets=PRESETS,
        is_run=True,
    ),
    "export": Verb(
        module="mobilellama.sft.export.export",
        help="write a checkpoint as a Hugging Face chat model, or its LoRA adapter",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "merge": Verb(
        module="mobilellama.sft.export.merge",
        help="add a LoRA adapter to its base in fp32 and write a Hugging Face folder",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "chat": Verb(
        module="mobilellama.sft.chat.chat",
        help="talk to a chat model in the terminal",
        interrupted=None,
    ),
    "generate": Verb(
        module="mobilellama.sft.chat.generate",
        help="answer a file of prompts in batches",
        interrupted="answers that were written stay, and the same command goes on",
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of the stage."""
    return run_stage("sft", __doc__ or "", VERBS, argv)
