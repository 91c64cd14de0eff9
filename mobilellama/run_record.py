"""Record what a run is. The record is in the run's attempts, checkpoints and exports.

    "record": {
      "stage": "vlm",
      "origin": {"init": "out/chat_model", "vision": "out/clip", "projector": null},
      "template": "vicuna_v1",
      "lora": {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "v_proj"]},
      "trains_language_model": true
    }

Only the record tells the stage, the adapters and the origin of a run. Files of older versions have
no record. For them, ``record_of`` derives it from the run's config.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError
from mobilellama.files.atomic import read_json
from mobilellama.files.hub_folder import public_name
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.files.typed_json import from_json

Stage = Literal["pretrain", "sft", "vlm"]

RECORD = "record"
"""The record's name in an attempt's file and in a manifest."""
RECORD_FILE = "run_record.json"
"""The record's file in an export."""

VLM_TYPES = ("mobilellama_vlm", "mobilevlm")
"""``model_type`` of the folders that 'vlm export' writes: our format and the published one."""

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of one decoder layer of Llama's shape. An old config without names means all of
them."""


EXPORT_IT = "Export it with 'mobilellama {stage} export'"
"""What to do with the run of another stage."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights of a run were read from at its first start."""

    init: str
    """The model: a folder, a run or a checkpoint, or NAME@COMMIT of one from the Hub."""
    vision: str | None = None
    """The folder of the vision tower. None: `init` had the tower, or there is none."""
    projector: str | None = None
    """The file of the projector's weights. None: `init` had it, or it was initialised."""
    revision: str | None = None
    """The revision that was given with the name of `init` on the Hub. None: none was."""

    def parts(self) -> dict[str, str]:
        """Return name -> place of the parts, without those that are None."""
        parts = {"init": self.init, "vision": self.vision, "projector": self.projector}
        return {name: place for name, place in parts.items() if place is not None}


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """The LoRA adapters that a run trains."""

    rank: int
    alpha: int
    dropout: float
    targets: list[str] | None
    """The adapted linear layers, by the last part of their names. None: all except the head."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run is."""

    stage: Stage
    origin: Origin | None = None
    """Where the weights were read from. None: all weights were initialised at random."""
    template: str | None = None
    """Name of the chat template of its samples. None: plain text, or not known."""
    lora: Adapters | None = None
    """The adapters of the run. An export's record has them too, also where its weights are merged.
    None: the run trains the weights themselves."""
    trains_language_model: bool = True
    """False: the run trains only the projector."""

    def require(
        self,
        stage: Stage,
        *,
        field: str,
        value: object,
        remedy: str = EXPORT_IT,
    ) -> None:
        """Raise ConfigError unless the run is of a stage.

        Args:
            stage: the stage that the run must be of.
            field: the config field that names the run.
            value: the value of the field.
            remedy: what to do instead. ``{stage}`` is replaced by the run's stage.
        """
        if self.stage != stage:
            rule = f"was written by 'mobilellama {self.stage} run'"
            raise ConfigError(field, value, rule, remedy.format(stage=self.stage))

    def write(self, folder: Path) -> None:
        """Write the record into an export.

        Of a path only the last part is written. The rest means nothing on other machines.
        """
        record = self
        if self.origin is not None:
            names = {name: public_name(place) for name, place in self.origin.parts().items()}
            record = replace(self, origin=replace(self.origin, **names))
        write_sealed_json(folder / RECORD_FILE, asdict(record))


def record_of(stored: object, config: Mapping[str, Any]) -> RunRecord:
    """Return the record that a run stored. For an older run, derive it from the config.

    Args:
        stored: the value of ``RECORD``. None: there is none.
        config: the config of the run, with today's names.

    Raises:
        TypeError: the stored value is not a record.
    """
    return _concluded(config) if stored is None else from_json(RunRecord, stored, RECORD)


def _concluded(config: Mapping[str, Any]) -> RunRecord:
    """Derive the record from the config of an older version.

    Runs of sft and vlm have an `init`. Of these, only runs of vlm have a vision tower.
    """
    if "init" not in config:
        return RunRecord(stage="pretrain")
    lora = config.get("lora") or {"rank": None}
    adapters = None
    if lora["rank"] is not None:
        defaults = {"alpha": 256, "dropout": 0.05, "targets": [*LLAMA_LINEARS]}
        adapters = from_json(Adapters, defaults | lora, "lora")
    if "vision" not in config:
        return RunRecord(stage="sft", origin=Origin(init=config["init"]), lora=adapters)
    return RunRecord(
        stage="vlm",
        origin=from_json(Origin, config.get("origin") or {"init": config["init"]}, "origin"),
        template=config["data"]["template"],
        lora=adapters,
        trains_language_model=config["train"]["language_model"],
    )


def stage_of_folder(folder: str | Path) -> Stage | None:
    """Return the stage that exported a folder. None: no stage of ours did.

    Without a record that can be read, the ``model_type`` in config.json decides. The reader of the
    folder reports a damaged file.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError, ValueError, TypeError):
        if (folder / RECORD_FILE).is_file():
            value = read_sealed_json(folder / RECORD_FILE, owner=None)
            return from_json(RunRecord, value).stage
    try:
        values = read_json(folder / "config.json")
    except (OSError, ValueError, TypeError):
        return None
    kind = values.get("model_type") if isinstance(values, dict) else None
    return "vlm" if kind in VLM_TYPES else None


def require_language_model(folder: str | Path, *, field: str, remedy: str) -> None:
    """Raise ConfigError if a folder holds a vision-language model."""
    if stage_of_folder(folder) == "vlm":
        raise ConfigError(field, str(folder), "is a vision-language model", remedy)
