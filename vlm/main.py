"""Stage ``vlm``: make a vision-language model of a chat model, ask it about images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilellama.cli import Verb, run_stage
from mobilellama.inputs import TEMPLATE, InputPath

PRESETS = Path(__file__).parent / "presets"
VERBS = {
    "check-data": Verb(
        module="mobilellama.vlm.data.check",
        thing="data.path",
        meant=("images",),
        help="read every record and open every image; list what cannot be trained on",
        interrupted="nothing is kept; run the same command again",
    ),
    "run": Verb(
        module="mobilellama.vlm.run",
        config="mobilellama.vlm.config",
        meant=("data.path", "init"),
        first=(
            "vision",
            "projector.kind",
            "data.template",
            "train.language_model",
            "lora.rank",
            "optimizer.learning_rate",
        ),
        help="train, or resume a run from its newest checkpoint",
        presets=PRESETS,
        is_run=True,
    ),
    "plan": Verb(
        module="mobilellama.vlm.plan",
        config="mobilellama.vlm.plan_config",
        meant=("base", "gpu"),
        first=(
            "samples",
            "row_tokens",
            "mfu",
            "json",
            "lora.rank",
            "train.micro_batch_size",
            "train.gradient_checkpointing",
        ),
        help="say what a run needs before it starts: memory, time, disk",
        presets=PRESETS,
    ),
    "export": Verb(
        module="mobilellama.vlm.formats.export",
        config="mobilellama.vlm.formats.export_config",
        thing="checkpoint",
        meant=("output",),
        first=(
            "format",
            "dtype",
            "template",
            "safetensors",
            "tokenizer",
            "base",
            "push",
            "private",
        ),
        help="write a checkpoint as a folder: our form, or that of the published MobileVLM",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "import": Verb(
        module="mobilellama.vlm.formats.import_published",
        config="mobilellama.vlm.formats.import_config",
        thing="model",
        meant=("output",),
        help="write a published MobileVLM folder in our form",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "chat": Verb(
        module="mobilellama.vlm.chat.chat",
        thing="model",
        meant=("image",),
        first=(
            "image",
            "system",
            "template",
            "temperature",
            "max_new_tokens",
            "top_p",
            "quantization",
            "device",
            "dtype",
        ),
        help="talk about images in the terminal",
        interrupted=None,
    ),
    "generate": Verb(
        module="mobilellama.vlm.chat.generate",
        thing="model",
        meant=("input",),
        first=(
            "images",
            "template",
            "temperature",
            "max_new_tokens",
            "batch_size",
            "quantization",
            "device",
        ),
        help="answer a file of questions about images in batches",
        interrupted="answers that were written stay, and the same command goes on",
    ),
    "evaluate": Verb(
        module="mobilellama.vlm.benchmarks.evaluate",
        thing="model",
        meant=("tasks",),
        first=(
            "template",
            "batch_size",
            "limit",
            "quantization",
            "device",
            "answers",
        ),
        help="score a model on GQA, MME, POPE, ScienceQA, TextVQA or MMBench",
        interrupted="answers and scores that were written stay, and the same command goes on",
    ),
}
_RECORDS = InputPath(
    field="data.path",
    kind="path",
    remedy="Give a .json or .jsonl file, or a folder of them",
)
# What a job reads: 'mobilellama launch' looks at it before it submits.
INPUTS = {
    "run": (
        InputPath(
            field="init",
            kind="folder",
            remedy="Give the folder of a model or of a run or checkpoint, or a name on the Hub",
            only_at_first=True,
            name="owned",
        ),
        InputPath(
            field="vision",
            kind="folder",
            remedy="Give the folder of a vision tower, or its name on the Hub",
            only_at_first=True,
            name="owned",
        ),
        InputPath(
            field="projector.weights",
            kind="file",
            remedy="Give an mm_projector.bin",
            only_at_first=True,
        ),
        _RECORDS,
        InputPath(field="data.images", kind="folder", remedy="Give the folder of the images"),
        replace(_RECORDS, field="data.validation"),
        InputPath(
            field="data.leave_out",
            kind="file",
            remedy="Give the --output of 'mobilellama vlm check-data'",
        ),
        replace(TEMPLATE, field="data.template"),
    ),
    "export": (
        InputPath(
            field="checkpoint",
            kind="folder",
            remedy="Give the folder of a run, of one of its checkpoints, or of an export",
        ),
        InputPath(
            field="tokenizer",
            kind="path",
            remedy="Give a sentencepiece .model file, a Hugging Face folder, or a name on the Hub",
            name="owned",
        ),
        TEMPLATE,
    ),
    "evaluate": (
        InputPath(
            field="model",
            kind="folder",
            remedy="Give the folder of a model or of a run, or a name on the Hub",
            unless="answers",
            name="owned",
        ),
        InputPath(
            field="data", kind="folder", remedy="Give the folder that holds the benchmarks' folders"
        ),
        InputPath(field="answers", kind="path", remedy="Give a .jsonl file, or a folder of them"),
        TEMPLATE,
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of the stage."""
    return run_stage(
        "vlm", "Make a vision-language model of a chat model, ask it about images.", VERBS, argv
    )
