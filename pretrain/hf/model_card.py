"""README.md of an exported folder: what the model is and how it was made, from the run's files."""

from dataclasses import dataclass
from pathlib import Path

from mobilellama.files.hub_folder import public_name
from mobilellama.pretrain.hf.card_parts import (
    AUTO_TOKENIZER,
    LastLosses,
    architecture_table,
    learnt_from,
    losses_table,
    made_with,
    recipe_rows,
    spelling,
    table,
    write_card,
)
from mobilellama.pretrain.model import count_parameters
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.manifest import Manifest
from mobilellama.shards.mixture import PERIOD
from mobilellama.tokenizers.text_tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts that a card is made of."""

    title: str
    license: str | None
    """The Hub's name of a licence, in lower case; None names none."""
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
        assert steps is not None  # pretraining has no epochs
        stage = "at the end of" if step >= steps else f"after {step:,} of the {steps:,} steps of"
        return (
            f"A base language model of the LLaMA architecture, {self._start()}: "
            f"{parameters:,} parameters ({without_embedding:,} without the input embedding), "
            f"{stage} its training, {self._tokens:,} tokens seen. It continues text; it was "
            "never taught to follow instructions."
        )

    def _start(self) -> str:
        origin = self.manifest.record.origin
        if origin is None:
            return "pretrained from scratch"
        # Paths of this machine say nothing to others.
        return f"pretrained further from the weights of `{public_name(origin.init)}`"

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
        train, rates = config["train"], {"learning rate": config["optimizer"]["learning_rate"]}
        step = self.manifest.step
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
                *recipe_rows(self.manifest, config, rates),
                ("attention", _ATTENTION[self.model.attention]),
                ("processes at the end", f"{self.manifest.world_size}"),
                made_with(),
            ],
        )

    def _data(self) -> str:
        mixture = self.manifest.identity["data.mixture"].items()
        shares = {subset: f"{100 * share / PERIOD:.2f} %" for subset, share in mixture}
        return (
            losses_table("subset", self.losses, shares)
            + "\n\nLosses are in nats a token, of the last interval at or before this step; "
            "held-out documents were never trained on.\n\n"
            f"Dataset fingerprint `{self.manifest.identity['data.fingerprint']}`, order seed "
            f"{self.manifest.identity['data.seed']}, tokenizer sha256 `{self.tokenizer.sha256}`."
        )

    def _limits(self) -> str:
        text = learnt_from("texts", self.manifest.identity["data.mixture"])
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
