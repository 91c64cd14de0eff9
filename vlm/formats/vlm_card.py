"""README.md of an exported vision-language model, from the run's files."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from mobilellama.files.hub_folder import public_name
from mobilellama.pretrain.hf.card_parts import (
    last_losses,
    learnt_from,
    losses_table,
    made_with,
    recipe_rows,
    table,
    tuning_rows,
    write_card,
)
from mobilellama.sft.data.conversation import Turn
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.formats.trained import Trained
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER

PARTS = {TOWER: "vision tower", PROJECTOR: "projector", LANGUAGE: "language model"}
"""What the parts are called, by the beginning of their parameters' names."""


@dataclass(frozen=True, kw_only=True)
class VlmCard:
    """The facts that a card is made of."""

    title: str
    license: str | None
    """The Hub's name of a licence, in lower case; None names none."""
    form: Literal["hf", "mobilevlm"]
    dtype: str
    base: str | None
    """The Hub's name of the language model; None leaves it out of the metadata."""
    trained: Trained
    imported: str | None = None
    """NAME@COMMIT of the published folder on the Hub that this one was made from, if any."""

    def write(self, path: Path) -> None:
        """Write the card, its metadata on top."""
        sections = {"How to use": self._usage(), "Format": self._format()}
        if self.trained.checkpoint is not None:
            sections |= {"Training": self._training(), "Data": self._data()}
        of_mobilevlm = self.trained.architecture.projector_class.is_mobilevlms
        write_card(
            path,
            title=self.title,
            license_name=self.license,
            introduction=self._introduction(),
            sections=sections | {"Architecture": self._architecture(), "Limits": self._limits()},
            library="mobilellama" if self.form == "hf" else "transformers",
            pipeline_tag="image-text-to-text",
            tags=[*(["mobilevlm"] if of_mobilevlm else []), "mobilellama", "vision"],
            **({} if self.base is None else {"base_model": self.base}),
        )

    def _parameters(self, prefix: str = "") -> int:
        shapes = self.trained.shapes.items()
        return sum(prod(shape) for name, shape in shapes if name.startswith(prefix))

    def _introduction(self) -> str:
        parts = ", ".join(f"{name} {self._parameters(its):,}" for its, name in PARTS.items())
        text = (
            f"A vision-language model with {self._parameters():,} parameters ({parts}). It answers "
            "questions about images."
        )
        if self.trained.is_aligned_only:
            text += (
                " It is a first stage: its projector alone was trained, on captions, and it is "
                "there to be trained further."
            )
        return text

    def _usage(self) -> str:
        if self.form == "mobilevlm":
            return (
                "The files have the names and keys of the published MobileVLM, for its original "
                "code; the prompt format is its `v1`, below. This project reads them too: "
                f"`mobilellama vlm import {self.title} --output FOLDER`."
            )
        owner, _, folder = self.title.rpartition("/")
        fetch = f"hf download {self.title} --local-dir {folder}\n" if owner else ""
        return f"""```shell
{fetch}mobilellama vlm chat {folder} --image photo.jpg
mobilellama vlm generate {folder} --input questions.jsonl --images DIR \\
    --output answers.jsonl
```

```python
from mobilellama.vlm.chat.assistant import load

model = load("{folder}")
print(model.answer("photo.jpg", "What is in the picture?"))
```

`mobilellama vlm run --init {folder}` trains it further, and
`mobilellama vlm export {folder} --format mobilevlm` writes it for the original
MobileVLM's code."""

    def _format(self) -> str:
        trained = self.trained
        template, images = trained.template, trained.architecture.images
        question = "<image>" if template.is_caption else "<image>\nQUESTION"
        turns = (Turn("user", question), Turn("assistant", "ANSWER"))
        text = template.text(turns, bos=trained.tokenizer.bos_token)
        ways = {
            "square": "resized by the shortest edge and cut to the centre",
            "pad": "padded to a square of the mean colour and resized",
            "squash": "resized without regard to the shape",
        }
        turns = {
            "as_stored": "taken as they are stored, whatever their EXIF orientation",
            "as_shown": "turned first as their EXIF orientation says",
        }
        return (
            f"{template.about.rstrip('.')}:\n\n```text\n{text}\n```\n\n"
            f"`<image>` stands for {trained.architecture.image_tokens} image tokens. Images are "
            f"{ways[images.aspect_ratio]}, {images.size_pixels} x {images.size_pixels} pixels; "
            f"photographs are {turns[images.orientation]}."
        )

    def _training(self) -> str:
        checkpoint = self.trained.checkpoint
        assert checkpoint is not None
        manifest, config = checkpoint.manifest, checkpoint.manifest.config
        origin = manifest.record.origin
        train, optimizer = config["train"], config["optimizer"]
        rates = {"learning rate": optimizer["learning_rate"]}
        if own := optimizer["projector_learning_rate"]:
            rates["learning rate of the projector"] = own
        rows = [
            *(
                (f"began from ({name})", f"`{public_name(its)}`")
                for name, its in (origin.parts() if origin else {}).items()
            ),
            ("trained", self._what_trained()),
            *tuning_rows(manifest, config),
            ("samples seen", f"{manifest.consumed:,}"),
            (
                "batch",
                f"{train['global_batch_size']:,} samples of {train['seq_len']:,} tokens at most",
            ),
            *recipe_rows(manifest, config, rates),
            made_with(),
        ]
        return table(("", ""), rows)

    def _what_trained(self) -> str:
        lora = self.trained.lora
        if self.trained.is_aligned_only:
            return "the projector"
        if lora.rank is None:
            return "projector and language model"
        return (
            f"the projector, and LoRA of rank {lora.rank}, alpha {lora.alpha}, dropout "
            f"{lora.dropout:g} on the language model's {lora.target_names}; merged in fp32"
        )

    def _limits(self) -> str:
        text = f"{_LIMITS} It was not trained to refuse."
        if self.trained.checkpoint is not None:
            text += " " + learnt_from("samples", [self._records])
        return text

    @property
    def _records(self) -> str:
        config = self.trained.config
        assert config is not None
        return Path(config["data"]["path"]).name

    def _data(self) -> str:
        checkpoint, trained = self.trained.checkpoint, self.trained
        assert checkpoint is not None
        identity = checkpoint.manifest.identity
        losses = last_losses(trained.run, checkpoint.manifest.step)
        return (
            losses_table("samples", losses)
            + "\n\nLosses are in nats an answer token, of the last interval at or before this "
            f"step. The records are `{self._records}`, fingerprint "
            f"`{identity['data.fingerprint']}`, order seed {identity['data.seed']}; tokenizer "
            f"sha256 `{trained.tokenizer.sha256}`, template sha256 `{trained.template.sha256}`."
        )

    def _architecture(self) -> str:
        its = self.trained.architecture
        language, vision = its.language, its.vision
        rows: list[tuple[str, ...]] = [
            ("vision tower", f"{vision['model_type']}, {vision['num_hidden_layers']} layers of "
             f"{its.vision_width:,}, patches of {vision['patch_size']} pixels"),
            ("features", f"hidden state {its.feature_layer}, without the class token"),
            ("projector", f"{its.projector}, {its.patches:,} patches to "
             f"{its.image_tokens:,} tokens{_rule(its)}"),
            ("language model", f"{language['model_type']}, {language['num_hidden_layers']} layers "
             f"of {its.width:,}"),
            ("vocabulary", f"{language['vocab_size']:,}"),
            ("context", f"{its.max_seq_len:,} tokens, the images' included"),
            ("weights", self.dtype),
            *([] if self.imported is None else [("imported from", f"`{self.imported}`")]),
        ]  # fmt: skip
        return table(("", ""), rows)


def _rule(architecture: Architecture) -> str:
    """Return the form of what the projector's kind leaves open."""
    rule = architecture.projector_class.rule
    return "" if rule is None else f", {rule} {getattr(architecture, rule)}"


_LIMITS = (
    "It describes things that are not in the picture, reads small print badly and counts poorly, "
    "as models of this size do."
)
