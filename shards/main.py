"""Stage ``shards``: look at, check and plot bucket files."""

from collections.abc import Sequence

from mobilellama.cli import Verb, run_stage

VERBS = {
    "info": Verb(
        module="mobilellama.shards.info",
        thing="dataset",
        help="a table of the subsets: documents, tokens, share of the mixture, epochs",
    ),
    "verify": Verb(
        module="mobilellama.shards.verify",
        thing="dataset",
        help="compare every file with its sha256; say what to rebuild",
        interrupted="files found good are noted in verify.jsonl; the same command reads the others",
    ),
    "audit": Verb(
        module="mobilellama.shards.audit.audit",
        thing="dataset",
        help="encode documents of the corpus anew with the tokenizer's library alone, and compare",
    ),
    "show": Verb(
        module="mobilellama.shards.show",
        thing="dataset",
        meant=("position",),
        first=(
            "position",
            "mixture",
            "seq_len",
            "bucket",
            "document",
            "file",
            "line",
            "text",
            "limit",
        ),
        help="samples and documents as text: by position, by number, by line, by what they hold",
    ),
    "plot": Verb(
        module="mobilellama.shards.plot",
        thing="dataset",
        meant=("output",),
        help="document lengths and the mixture as a picture",
    ),
    "report": Verb(
        module="mobilellama.shards.report.report",
        thing="dataset",
        meant=("output",),
        help="one page about a dataset: shares, lengths, bad records, copies, texts",
    ),
    "compare": Verb(
        module="mobilellama.shards.compare.compare",
        thing="dataset",
        second="other",
        help="say how two datasets differ, where first, and most likely why",
    ),
    "export": Verb(
        module="mobilellama.shards.export.export",
        thing="dataset",
        meant=("output",),
        help="write the ids as files for Megatron-LM, NumPy or Hugging Face's datasets",
        interrupted="whole files stay, and the same command goes on",
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run one verb of this stage."""
    return run_stage("shards", "Look at, check and plot bucket files.", VERBS, argv)
