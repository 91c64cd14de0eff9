"""Stage ``sft``: make a chat model of a language model, talk to it, export it."""

from collections.abc import Sequence
from pathlib import Path

from mobilellama.cli import Verb, run_stage
from mobilellama.inputs import CHECKPOINT, INIT, TEMPLATE, InputPath, token_dataset

PRESETS = Path(__file__).parent / "presets"
VERBS = {
    "prepare": Verb(
        module="mobilellama.sft.prepare",
        first=(
            "data.format",
            "template",
            "seq_len",
            "heldout_share",
            "max_bad_share",
            "workers",
            "dry_run",
        ),
        thing="data.path",
        meant=("output",),
        help="conversations to packed, masked rows: a dataset folder",
        interrupted="finished buckets stay, and the same command goes on",
    ),
    "run": Verb(
        module="mobilellama.sft.run",
        config="mobilellama.sft.config",
        meant=("data.path", "init"),
        first=(
            "lora.rank",
            "train.epochs",
            "train.global_batch_size",
            "train.micro_batch_size",
            "optimizer.learning_rate",
            "checkpoint.every_steps",
            "distributed.devices",
        ),
        help="finetune, or resume a run from its newest checkpoint",
        presets=PRESETS,
        is_run=True,
    ),
    "plan": Verb(
        module="mobilellama.sft.plan",
        meant=("base", "gpu"),
        first=(
            "rows",
            "mfu",
            "json",
            "lora.rank",
            "train.micro_batch_size",
            "train.gradient_checkpointing",
            "engine.kind",
        ),
        help="say what a finetuning needs before it starts: memory, time, disk",
        presets=PRESETS,
    ),
    "export": Verb(
        module="mobilellama.sft.export.export",
        config="mobilellama.sft.export.export_config",
        thing="checkpoint",
        meant=("output",),
        help="write a checkpoint as a Hugging Face chat model, or its LoRA adapter",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "merge": Verb(
        module="mobilellama.sft.export.merge",
        config="mobilellama.sft.export.merge_config",
        thing="checkpoint",
        meant=("output",),
        help="add a LoRA adapter to its base in fp32 and write a Hugging Face folder",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "evaluate": Verb(
        module="mobilellama.sft.chat.evaluate",
        thing="model",
        meant=("tasks",),
        help="score a chat model on language benchmarks, beside the published scores",
        interrupted="tasks that were scored are kept; run the same command again",
    ),
    "chat": Verb(
        module="mobilellama.sft.chat.chat",
        thing="model",
        help="talk to a chat model in the terminal",
        interrupted=None,
    ),
    "generate": Verb(
        module="mobilellama.sft.chat.generate",
        thing="model",
        meant=("input",),
        first=(
            "template",
            "system",
            "temperature",
            "max_new_tokens",
            "batch_size",
            "device",
            "overwrite",
        ),
        help="answer a file of prompts in batches",
        interrupted="answers that were written stay, and the same command goes on",
    ),
}
_TOKENIZER = InputPath(
    field="tokenizer",
    kind="path",
    remedy=(
        "Give a sentencepiece .model file, a tokenizer.json, or a model's folder or name on the Hub"
    ),
    name="owned",
)
# What a job reads: 'mobilellama launch' looks at it before it submits.
INPUTS = {
    "prepare": (
        InputPath(
            field="data.path",
            kind="path",
            remedy="Give a file or a folder of conversations, or a name on the Hub",
            name="hub",
        ),
        _TOKENIZER,
        TEMPLATE,
    ),
    "run": (
        INIT,
        token_dataset("sft prepare"),
    ),
    "export": (CHECKPOINT, _TOKENIZER, TEMPLATE),
    "merge": (
        CHECKPOINT,
        InputPath(
            field="adapter",
            kind="folder",
            holds="adapter_config.json",
            remedy="Give the folder of an adapter, or its name on the Hub",
            name="owned",
        ),
        InputPath(
            field="base",
            kind="folder",
            remedy="Give the Hugging Face folder of the adapter's base, or its name on the Hub",
            name="owned",
            unless="checkpoint",
        ),
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of the stage."""
    return run_stage(
        "sft", "Make a chat model of a language model, talk to it, export it.", VERBS, argv
    )
