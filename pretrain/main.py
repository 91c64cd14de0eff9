"""Stage ``pretrain``: train a language model on bucket files, look at it, export it."""

from collections.abc import Sequence
from pathlib import Path

from mobilellama.cli import Verb, run_stage
from mobilellama.inputs import CHECKPOINT, INIT, InputPath, token_dataset

PRESETS = Path(__file__).parent / "presets"
VERBS = {
    "run": Verb(
        module="mobilellama.pretrain.run",
        config="mobilellama.pretrain.config",
        meant=("data.path",),
        first=(
            "data.mixture",
            "train.max_steps",
            "train.global_batch_size",
            "train.micro_batch_size",
            "train.seq_len",
            "optimizer.learning_rate",
            "checkpoint.every_steps",
            "distributed.devices",
        ),
        help="train, or resume a run from its newest checkpoint",
        presets=PRESETS,
        is_run=True,
    ),
    "plan": Verb(
        module="mobilellama.pretrain.planning.plan",
        meant=("gpus", "gpu"),
        first=(
            "mfu",
            "json",
            "train.max_steps",
            "train.global_batch_size",
            "train.micro_batch_size",
            "train.gradient_checkpointing",
            "engine.kind",
            "engine.zero_stage",
        ),
        help="say what a run needs before it starts: memory, time, communication, disk",
        presets=PRESETS,
    ),
    "plot": Verb(
        module="mobilellama.pretrain.monitoring.plot",
        thing="run",
        meant=("output",),
        help="a run's losses, rates and speed as a picture",
    ),
    "replay": Verb(
        module="mobilellama.pretrain.monitoring.replay",
        thing="run",
        meant=("step",),
        help="the text that a step was trained on",
    ),
    "generate": Verb(
        module="mobilellama.pretrain.generation.generate",
        help="continue a text with an exported model, a Hugging Face folder or a run",
        thing="model",
        meant=("prompt",),
        interrupted="the text stays as far as it came",
    ),
    "export": Verb(
        module="mobilellama.pretrain.hf.export",
        config="mobilellama.pretrain.hf.export_config",
        thing="checkpoint",
        meant=("output",),
        help="write a checkpoint as a Hugging Face folder, and push it if asked to",
        interrupted="nothing half-written counts; run the same command again",
    ),
    "evaluate": Verb(
        module="mobilellama.pretrain.evaluation.evaluate",
        thing="model",
        meant=("tasks",),
        help="score a model on language benchmarks, beside the published scores",
        interrupted="tasks that were scored are kept; run the same command again",
    ),
    "push": Verb(
        module="mobilellama.pretrain.hf.hub",
        thing="folder",
        meant=("repo",),
        help="push an exported folder to the Hugging Face Hub",
        interrupted="what was pushed stays there, and the same command pushes the rest",
    ),
}
# What a job reads: 'mobilellama launch' looks at it before it submits.
INPUTS = {
    "run": (
        INIT,
        token_dataset("tokenize run"),
        InputPath(
            field="data.mixture",
            kind="file",
            remedy="Give a mixture's YAML file or the name of a preset",
            name="preset",
        ),
    ),
    "export": (
        CHECKPOINT,
        InputPath(
            field="tokenizer",
            kind="path",
            remedy="Give a sentencepiece .model file, a Hugging Face folder, or a name on the Hub",
            name="owned",
        ),
    ),
    "evaluate": (
        InputPath(
            field="model",
            kind="folder",
            remedy="Give the folder of an exported model, or a name on the Hub",
            name="owned",
        ),
        InputPath(field="data", kind="folder", remedy="Give a folder of the tasks' files"),
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of the stage."""
    return run_stage(
        "pretrain", "Train a language model on bucket files, look at it, export it.", VERBS, argv
    )
