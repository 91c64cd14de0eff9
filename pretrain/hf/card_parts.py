"""What the cards (README.md) of exports have in common: their head, tables and sentences."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama import __version__
from mobilellama.pretrain.optimizers.kind import optimizer_text
from mobilellama.pretrain.schedule import schedule_text
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.manifest import Manifest
from mobilellama.pretrain.state.stored_fields import StoredConfig
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)

_VALIDATION = "validation_loss"
AUTO_TOKENIZER = """\
Use `AutoTokenizer`. `LlamaTokenizer` of transformers 5 rebuilds its merges without the model's
scores and splits leading and repeated spaces otherwise than in training; `AutoTokenizer` reads
`tokenizer.json` as it stands, which gives the training's ids exactly."""


@dataclass(frozen=True, kw_only=True)
class LastLosses:
    """The newest losses up to a checkpoint, nats a token; empty where none were written."""

    training: dict[str, float]
    """By subset; the key "" is the loss over all."""
    validation: dict[str, float]
    """The same on held-out documents."""

    @property
    def subsets(self) -> set[str]:
        """The names of the subsets that have losses."""
        return {*self.training, *self.validation} - {""}


def last_losses(run: RunFolder | None, step: int) -> LastLosses:
    """Read the newest training and validation losses at or before `step` from metrics.jsonl."""
    training: dict[str, float] = {}
    validation: dict[str, float] = {}
    for record in run.read_metrics() if run else []:
        if record["step"] <= step:
            training = _by_subset(record, "loss") or training
            validation = _by_subset(record, _VALIDATION) or validation
    return LastLosses(training=training, validation=validation)


def _by_subset(record: dict[str, Any], key: str) -> dict[str, float]:
    names = {name: name.removeprefix(key).removeprefix("/") for name in record}
    return {
        subset: record[name]
        for name, subset in names.items()
        if name in (key, f"{key}/{subset}") and record[name] is not None
    }


def architecture_table(model: ModelConfig, tokenizer: TextTokenizer, weights: str) -> str:
    """Return the architecture as a table; `weights` says how they are stored."""
    return table(
        ("", ""),
        [
            ("layers", f"{model.n_layers}"),
            ("width", f"{model.d_model:,}"),
            ("heads", f"{model.n_heads} of {model.head_dim}"),
            ("key-value heads", f"{model.kv_heads}"),
            ("SwiGLU width", f"{model.d_ff:,}"),
            ("vocabulary", f"{model.vocab_size:,} ({tokenizer.vocab_size:,} pieces)"),
            ("context", f"{model.max_seq_len:,} tokens"),
            ("rotary base", f"{model.rope_theta:g}"),
            ("RMSNorm epsilon", f"{model.norm_eps:g}"),
            ("embeddings", "input and output untied"),
            ("weights", weights),
        ],
    )


def recipe_rows(
    manifest: Manifest, config: StoredConfig, rates: Mapping[str, float]
) -> list[tuple[str, str]]:
    """Return rows of the training's table: optimizer, learning rates, precision.

    Args:
        manifest: the checkpoint's.
        config: the run's.
        rates: peak learning rates by what they are called.
    """
    return [
        ("optimizer", optimizer_text(config["optimizer"])),
        *((name, schedule_text(config, rate, step=manifest.step)) for name, rate in rates.items()),
        ("precision", f"{manifest.identity['engine.precision']}, masters fp32"),
    ]


def tuning_rows(manifest: Manifest, config: StoredConfig) -> list[tuple[str, str]]:
    """Return rows of the training's table for a run that is counted in epochs."""
    train = config["train"]
    return [
        ("steps", f"{manifest.step:,}"),
        ("epochs asked for", "-" if train["max_steps"] else f"{train['epochs']:g}"),
        ("loss", "mean over all answer tokens of the batch, and their ends"),
    ]


def made_with() -> tuple[str, str]:
    """Return the training's last row."""
    return ("made with", f"mobilellama {__version__}")


def losses_table(head: str, losses: LastLosses, shares: Mapping[str, str] | None = None) -> str:
    """Return the newest losses by subset, those over all first.

    Args:
        head: what a subset is called.
        losses: of the run.
        shares: of every subset in the data, a column of their own; None has none.
    """
    names = sorted(losses.subsets) if shares is None else list(shares)
    rows = [
        (
            name or "all",
            loss_text(losses.training.get(name)),
            loss_text(losses.validation.get(name)),
        )
        for name in ["", *names]
    ]
    if shares is None:
        return table((head, "training loss", "held-out loss"), rows)
    rows = [(name, shares.get(name, "100.00 %"), *cells) for name, *cells in rows]
    return table((head, "share", "training loss", "held-out loss"), rows)


def learnt_from(what: str, subsets: Iterable[str]) -> str:
    """Return the sentence that says what the model learnt from, and what follows.

    Args:
        what: such as "texts".
        subsets: the dataset's.
    """
    names = ", ".join(f"`{name}`" for name in sorted(subsets))
    of = f" of {names}" if names else ""
    return (
        f"It learnt from the {what}{of}: it repeats their errors and prejudices, and states "
        "falsehoods fluently."
    )


def spelling(tokenizer: TextTokenizer, token_id: int | None) -> str:
    """Return how a special token is written; empty where there is none."""
    return next((text for text, its in tokenizer.specials.items() if its.id == token_id), "")


def write_card(
    path: Path,
    *,
    title: str,
    license_name: str | None,
    introduction: str,
    sections: Mapping[str, str],
    library: str = "transformers",
    pipeline_tag: str = "text-generation",
    tags: Sequence[str] = ("llama", "mobilellama"),
    **metadata: Any,
) -> None:
    """Write a card: the Hub's metadata, title, introduction and sections.

    Args:
        path: README.md.
        title: of the card.
        license_name: the Hub's name of a licence; None names none, and a warning says so.
        introduction: the first paragraph.
        sections: text by heading.
        library: that loads the folder.
        pipeline_tag: the Hub's name of what the model does.
        tags: by which the Hub finds it.
        metadata: more fields of huggingface_hub's ``ModelCardData``.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if license_name is None:
        log.warning(
            "the card names no licence, because none was given. Without a licence others may not "
            "use the weights. Give one with --license NAME, such as apache-2.0. The licences of "
            "the base and of the data count too"
        )
    data = ModelCardData(
        license=license_name,
        library_name=library,
        pipeline_tag=pipeline_tag,
        tags=list(tags),
        **metadata,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {title}", introduction]
    parts += [f"## {heading}\n\n{text}" for heading, text in sections.items()]
    ModelCard("\n\n".join(parts) + "\n").save(path)


def loss_text(value: float | None) -> str:
    """Return a loss, nats a token, for a table."""
    return "-" if value is None else f"{value:.4f}"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
