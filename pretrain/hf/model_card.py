"""README.md of an exported folder: what the model is and how it was made, from the run's files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama import __version__
from mobilellama.pretrain.model import ModelConfig, count_parameters
from mobilellama.pretrain.schedule import schedule_text
from mobilellama.pretrain.state.checkpoint import Manifest
from mobilellama.run_folder import RunFolder
from mobilellama.shards.mixture import PERIOD
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

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


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts that a card is made of."""

    title: str
    license: str
    """The Hub's name of a licence, in lower case."""
    dtype: str
    add_bos: bool
    model: ModelConfig
    manifest: Manifest
    tokenizer: TextTokenizer
    losses: LastLosses

    def write(self, path: Path) -> None:
        """Write the card, its metadata on top."""
        write_card(
            path,
            title=self.title,
            license_name=self.license,
            introduction=self._introduction(),
            sections={
                "How to load": self._usage(),
                "Architecture": architecture_table(
                    self.model, self.tokenizer, f"{self.dtype}, rounded from fp32 masters"
                ),
                "Training": self._training(),
                "Data": self._data(),
                "Limits": self._limits(),
            },
        )

    @property
    def _tokens(self) -> int:
        return self.manifest.consumed * self.manifest.config["train"]["seq_len"]

    def _introduction(self) -> str:
        parameters, without_embedding = count_parameters(self.model)
        step, steps = self.manifest.step, self.manifest.config["train"]["max_steps"]
        stage = "at the end of" if step >= steps else f"after {step:,} of the {steps:,} steps of"
        return (
            f"A base language model of the LLaMA architecture, pretrained from scratch: "
            f"{parameters:,} parameters ({without_embedding:,} without the input embedding), "
            f"{stage} its training, {self._tokens:,} tokens seen. It continues text; it was "
            "never taught to follow instructions."
        )

    def _usage(self) -> str:
        bos, eos = self.tokenizer.bos_token, spelling(self.tokenizer, self.tokenizer.eos_id)
        no_bos = ", add_special_tokens=False" if self.add_bos else ""
        switch = (
            f"This export's tokenizer puts `{bos}` first all the same, as was asked for;\n"
            "`add_special_tokens=False` leaves it out."
            if self.add_bos
            else f"This export's tokenizer adds no `{bos}`, unlike LLaMA's;\n"
            "with transformers 5, `AutoTokenizer.from_pretrained(path, add_bos_token=True)` does."
        )
        return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "{self.title}"  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
inputs = tokenizer("The capital of France is", return_tensors="pt"{no_bos})
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))
```

{AUTO_TOKENIZER}

**No `{bos}`.** In pretraining every document is followed by `{eos}` and none is preceded by
`{bos}`: this model has never seen it. Start a text from `{eos}` (a new document) or from
nothing; `generate()` without a prompt starts from `{bos if self.add_bos else eos}`.
{switch}"""

    def _training(self) -> str:
        config = self.manifest.config
        train, optimizer = config["train"], config["optimizer"]
        peak, step = optimizer["learning_rate"], self.manifest.step
        batch = train["global_batch_size"]
        return table(
            ("", ""),
            [
                ("steps", f"{step:,} of {train['max_steps']:,}"),
                ("tokens seen", f"{self._tokens:,}"),
                (
                    "batch",
                    f"{batch:,} x {train['seq_len']:,} = {batch * train['seq_len']:,} tokens",
                ),
                ("optimizer", optimizer_text(optimizer)),
                ("learning rate", schedule_text(config, peak, step=step)),
                ("precision", f"{self.manifest.identity['engine.precision']}, masters fp32"),
                ("attention", _ATTENTION[self.model.attention]),
                ("processes at the end", f"{self.manifest.world_size}"),
                ("made with", f"mobilellama {__version__}"),
            ],
        )

    def _data(self) -> str:
        mixture, losses = self.manifest.identity["data.mixture"], self.losses
        shares = {"": PERIOD} | mixture
        rows = [
            (
                subset or "all",
                f"{100 * share / PERIOD:.2f} %",
                loss_text(losses.training.get(subset)),
                loss_text(losses.validation.get(subset)),
            )
            for subset, share in shares.items()
        ]
        return (
            table(("subset", "share", "training loss", "held-out loss"), rows)
            + "\n\nLosses are in nats a token, of the last interval at or before this step; "
            "held-out documents were never trained on.\n\n"
            f"Dataset fingerprint `{self.manifest.identity['data.fingerprint']}`, order seed "
            f"{self.manifest.identity['data.seed']}, tokenizer sha256 `{self.tokenizer.sha256}`."
        )

    def _limits(self) -> str:
        text = (
            "The texts come from the web and were not vetted one by one: the model repeats their "
            "errors and prejudices, and states falsehoods fluently."
        )
        if self.model.attention == "per_document":
            text += (
                " It was trained with attention inside each document alone: give it one document "
                "a sequence, not several packed together."
            )
        return text


_ATTENTION = {
    "causal": "causal over the whole sample, across documents",
    "per_document": "causal inside each document",
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


def optimizer_text(optimizer: Mapping[str, Any]) -> str:
    """Return the optimizer's section of a config as one line."""
    return (
        f"AdamW, betas {optimizer['beta1']:g} and {optimizer['beta2']:g}, eps "
        f"{optimizer['eps']:g}, weight decay {optimizer['weight_decay']:g}, "
        f"gradient norm clipped at {optimizer['max_grad_norm']:g}"
    )


def spelling(tokenizer: TextTokenizer, token_id: int | None) -> str:
    """Return how a special token is written; empty where there is none."""
    return next((text for text, its in tokenizer.specials.items() if its.id == token_id), "")


def write_card(
    path: Path,
    *,
    title: str,
    license_name: str,
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
        license_name: the Hub's name of a licence.
        introduction: the first paragraph.
        sections: text by heading.
        library: that loads the folder.
        pipeline_tag: the Hub's name of what the model does.
        tags: by which the Hub finds it.
        metadata: more fields of huggingface_hub's ``ModelCardData``.
    """
    from huggingface_hub import ModelCard, ModelCardData

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
