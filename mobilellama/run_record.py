"""What a run is: the record that it writes into its attempts, checkpoints and exports.

    "record": {
      "stage": "vlm",
      "origin": {"init": "out/chat_model", "vision": "out/clip", "projector": null},
      "template": "vicuna_v1",
      "lora": {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "v_proj"]},
      "trains_language_model": true
    }

Nothing else tells stage, adapters or origin of a run. What an older version wrote has no record;
``record_of`` alone concludes it from the fields of its config.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError
from mobilellama.files.atomic import read_json
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.files.typed_json import from_json

Stage = Literal["pretrain", "sft", "vlm"]

RECORD = "record"
"""The record's name in an attempt's file and in a manifest."""
RECORD_FILE = "run_record.json"
"""The record's file in an export."""

VLM_TYPES = ("mobilellama_vlm", "mobilevlm")
"""``model_type`` of the folders that 'vlm export' writes: our form, and the published one."""

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer of Llama's shape. All were adapted where an old config
names none."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run's weights were read from when it began."""

    init: str
    """The model: a folder, a run or a checkpoint."""
    vision: str | None = None
    """The vision tower's folder; None where `init` had the tower, or there is none."""
    projector: str | None = None
    """The file of the projector's weights; None where `init` had it, or it began anew."""

    def given(self) -> dict[str, str]:
        """Return those that were given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """The low-rank updates that a run trains (LoRA)."""

    rank: int
    alpha: int
    dropout: float
    targets: list[str] | None
    """Linear layers with an update, by the last part of their names; None is all but the head."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run is."""

    stage: Stage
    origin: Origin | None = None
    """What the run began from; None where every weight was drawn."""
    template: str | None = None
    """Name of the chat template of its samples; None for plain text, or where it is not known."""
    lora: Adapters | None = None
    """None where the weights themselves train."""
    trains_language_model: bool = True
    """False where the projector alone trains."""

    def require(
        self,
        stage: Stage,
        *,
        field: str,
        value: object,
        remedy: str = "Export it with 'mobilellama {stage} export'",
    ) -> None:
        """Raise ConfigError unless the run is of a stage.

        Args:
            stage: the one whose runs are understood.
            field: the config field that named the run.
            value: the field's.
            remedy: what to do instead; ``{stage}`` becomes the run's.
        """
        if self.stage != stage:
            rule = f"was written by 'mobilellama {self.stage} run'"
            raise ConfigError(field, value, rule, remedy.format(stage=self.stage))

    def write(self, folder: Path) -> None:
        """Write the record into an export.

        Of paths the last part alone is written: the rest says nothing on other machines.
        """
        record = self
        if self.origin is not None:
            names = {name: Path(path).name for name, path in self.origin.given().items()}
            record = replace(self, origin=Origin(**names))
        write_sealed_json(folder / RECORD_FILE, asdict(record))


def record_of(stored: object, config: Mapping[str, Any]) -> RunRecord:
    """Return the record that a run stored; of an older run's files, what its config tells.

    Args:
        stored: the value of ``RECORD``; None where there is none.
        config: the run's, under the names of today.

    Raises:
        TypeError: the stored value is no record.
    """
    return _concluded(config) if stored is None else from_json(RunRecord, stored, RECORD)


def _concluded(config: Mapping[str, Any]) -> RunRecord:
    """Return what an older version's config tells.

    The later stages began from something, and of them only the last has a tower.
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
    """Return the stage whose export a folder is; None for another's model.

    A folder without a record is told by the ``model_type`` of its config.json.
    """
    folder = Path(folder)
    try:
        if (folder / RECORD_FILE).is_file():
            value = read_sealed_json(folder / RECORD_FILE, owner=None)
            return from_json(RunRecord, value).stage
        values = read_json(folder / "config.json")
    except (OSError, ValueError, TypeError):
        return None  # whoever reads the folder says what is wrong
    kind = values.get("model_type") if isinstance(values, dict) else None
    return "vlm" if kind in VLM_TYPES else None


def require_language_model(folder: str | Path, *, field: str, remedy: str) -> None:
    """Raise ConfigError if a folder holds a vision-language model."""
    if stage_of_folder(folder) == "vlm":
        raise ConfigError(field, str(folder), "is a vision-language model", remedy)
