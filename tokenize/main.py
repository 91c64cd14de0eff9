"""Stage ``tokenize``: raw text -> bucket files of token ids."""

from collections.abc import Sequence

from mobilellama.cli import Verb, run_stage
from mobilellama.inputs import InputPath

VERBS = {
    "run": Verb(
        module="mobilellama.tokenize.run",
        meant=("sources.root", "sources.dataset"),
        first=(
            "sources.root",
            "sources.dataset",
            "sources.text_column",
            "workers",
            "heldout_share",
            "max_bad_share",
            "task_count",
            "dry_run",
        ),
        help="tokenise a corpus into a dataset folder; run again, it does what is missing",
        interrupted="finished buckets stay, and the same command goes on",
    ),
    "plan": Verb(
        module="mobilellama.tokenize.forecast",
        meant=("sources.root", "sources.dataset", "url_list"),
        first=(
            "sources.root",
            "sources.dataset",
            "url_list",
            "tokenizer",
            "output",
            "workers",
            "task_count",
            "max_array_size",
            "mb_per_s",
            "json",
        ),
        help="say what tokenising a corpus will take, and what of it is missing; write nothing",
    ),
    "finish": Verb(
        module="mobilellama.tokenize.finish",
        meant=("output",),
        help="make the dataset of the buckets that the tasks of a job array wrote",
        interrupted="no half-written file is used; run the same command again",
    ),
    "train-tokenizer": Verb(
        module="mobilellama.tokenize.train_tokenizer",
        meant=("sources.root", "sources.dataset"),
        first=(
            "sources.root",
            "sources.dataset",
            "sources.name",
            "sources.split",
            "sources.text_column",
            "vocab_size",
            "sample_bytes",
            "slice_bytes",
            "max_bad_share",
        ),
        help="train a sentencepiece model with LLaMA's settings on a sample of a corpus",
        interrupted="no model is kept; run the same command again",
    ),
}
# What a job reads: 'mobilellama launch' looks at it before it submits.
INPUTS = {
    "run": (
        InputPath(
            field="tokenizer",
            kind="path",
            remedy=(
                "Give a sentencepiece .model file, a tokenizer.json, or a folder or a model on the "
                "Hub that holds one of them"
            ),
            name="owned",
        ),
        InputPath(
            field="sources.root",
            kind="folder",
            remedy="Give a folder in RedPajama's layout",
            url=True,
            unless="sources.dataset",
        ),
        InputPath(
            field="sources.dataset",
            kind="path",
            remedy="Give a folder of .parquet, .json or .jsonl files, or a name on the Hub",
            name="hub",
            url=True,
        ),
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of this stage."""
    return run_stage("tokenize", "Raw text -> bucket files of token ids.", VERBS, argv)
