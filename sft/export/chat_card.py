"""README.md of an exported chat model or adapter, from the run's files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilellama.files.hub_folder import name_and_revision
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
    tuning_rows,
    write_card,
)
from mobilellama.pretrain.model import count_parameters
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import stop_ids
from mobilellama.sft.finetuned import Finetuned

Kind = Literal["model", "merged", "adapter"]


@dataclass(frozen=True, kw_only=True)
class ChatCard:
    """The facts that a chat model's card is made of."""

    title: str
    license: str | None
    """The Hub's name of a licence, in lower case; None names none."""
    kind: Kind
    """A whole model, one with its adapter merged in, or the adapter alone."""
    dtype: str
    base: str | None
    """Folder or name of the model that finetuning began from, a name on the Hub with or without a
    revision. None: it is not known."""
    finetuned: Finetuned
    losses: LastLosses

    def write(self, path: Path) -> None:
        """Write the card, its metadata on top."""
        model, tokenizer = self.finetuned.model, self.finetuned.tokenizer
        write_card(
            path,
            title=self.title,
            license_name=self.license,
            introduction=self._introduction(),
            sections={
                "How to use": self._usage(),
                "Format": self._format(),
                "Training": self._training(),
                "Data": self._data(),
                "Architecture": architecture_table(model, tokenizer, self._weights()),
                "Limits": learnt_from("conversations", self.losses.subsets),
            },
            library="peft" if self.kind == "adapter" else "transformers",
            base_model=_hub_name(self.base),
        )

    def _weights(self) -> str:
        if self.kind == "adapter":
            return "the base's; the adapter is fp32"
        return f"{self.dtype}, rounded from fp32 masters"

    @property
    def _base(self) -> str | None:
        """The base as others may know it: paths of this machine say nothing to them."""
        return Path(self.base).name if self.base and Path(self.base).exists() else self.base

    def _introduction(self) -> str:
        parameters, _ = count_parameters(self.finetuned.model)
        rank, base = self.finetuned.lora.rank, f" `{self._base}`" if self._base else ""
        of_base = f" of{base}" if base else ""
        what = {
            "model": f"A chat model of the LLaMA architecture: a finetuning{of_base}, all "
            f"{parameters:,} parameters.",
            "merged": f"A chat model of the LLaMA architecture ({parameters:,} parameters): a "
            f"LoRA adapter of rank {rank}, merged in fp32 into its base{base}.",
            "adapter": f"A LoRA adapter of rank {rank} that makes a chat model of its base{base}, "
            f"a model of the LLaMA architecture with {parameters:,} parameters.",
        }
        return f"{what[self.kind]} It answers questions in turn, in the format below."

    def _usage(self) -> str:
        load = "model = AutoModelForCausalLM.from_pretrained(path)"
        imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
        if self.kind == "adapter":
            imports = f"from peft import PeftModel\n{imports}"
            name, revision = name_and_revision(self._base or "")
            pinned = f', revision="{revision}"' if revision else ""
            load = (
                f'base = AutoModelForCausalLM.from_pretrained("{name}"{pinned})\n'
                "model = PeftModel.from_pretrained(base, path)"
            )
        text = f"""```python
{imports}

path = "{self.title}"  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(path)
{load}
messages = [{{"role": "user", "content": "What is a list in Python?"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs, max_new_tokens=256)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

"""
        if self.kind == "adapter":
            return text + (
                f"`mobilellama sft merge --adapter {self.title} --base {self._base} --output "
                "FOLDER` adds it to its base in fp32 and writes a model that loads without peft.\n"
                f"\n{AUTO_TOKENIZER}"
            )
        return text + (
            f"In a terminal: `mobilellama sft chat {self.title}`; for a file of prompts, "
            f"`mobilellama sft generate`.\n\n{AUTO_TOKENIZER}"
        )

    def _format(self) -> str:
        template, tokenizer = self.finetuned.template, self.finetuned.tokenizer
        turns = (Turn("user", "QUESTION"), Turn("assistant", "ANSWER"), Turn("user", "NEXT"))
        text = template.text(turns, generate=True, bos=tokenizer.bos_token)
        stops = [
            f"`{spelling(tokenizer, i)}` ({i})" if spelling(tokenizer, i) else f"token {i}"
            for i in stop_ids(template, tokenizer)
        ]
        return (
            f"{template.about.rstrip('.')}:\n\n```text\n{text}\n```\n\n"
            f"`apply_chat_template` writes it; generation stops at {' or '.join(stops)}. The "
            "special tokens are single ids, which tokenising this text by hand need not give."
        )

    def _training(self) -> str:
        manifest, lora = self.finetuned.checkpoint.manifest, self.finetuned.lora
        config = manifest.config
        train, rates = config["train"], {"learning rate": config["optimizer"]["learning_rate"]}
        seq_len = manifest.identity["train.seq_len"]
        trained = "all parameters"
        if lora.rank is not None:
            trained = (
                f"LoRA of rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g} on "
                f"{lora.target_names}"
            )
        rows = [
            ("base", f"`{self._base}`" if self._base else "-"),
            ("trained", trained),
            *tuning_rows(manifest, config),
            ("rows seen", f"{manifest.consumed:,}, each of several conversations"),
            ("batch", f"{train['global_batch_size']:,} rows of {seq_len:,} tokens"),
            *recipe_rows(manifest, config, rates),
            made_with(),
        ]
        return table(("", ""), rows)

    def _data(self) -> str:
        identity = self.finetuned.checkpoint.manifest.identity
        return (
            losses_table("subset", self.losses)
            + "\n\nLosses are in nats an answer token, of the last interval at or before this "
            "step; held-out conversations were never trained on.\n\n"
            f"Dataset fingerprint `{identity['data.fingerprint']}`, order seed "
            f"{identity['data.seed']}, tokenizer sha256 `{self.finetuned.tokenizer.sha256}`, "
            f"template sha256 `{self.finetuned.template.sha256}`."
        )


def _hub_name(base: str | None) -> str | None:
    """Return the base for the Hub's metadata, which allows names of repositories alone."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if base is None or base.count("/") != 1 or Path(base).exists():
        return None
    base, _ = name_and_revision(base)
    try:
        validate_repo_id(base)
    except HFValidationError:
        return None
    return base
