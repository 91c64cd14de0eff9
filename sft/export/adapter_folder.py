"""An adapter as a folder in peft's format, written and read.

    adapter_config.json          rank, alpha, targets, the base model's name
    adapter_model.safetensors    base_model.model.MODULE.lora_A.weight and .lora_B.weight
                                 (or adapter_model.bin, read with weights_only)

What others wrote may hold more: ranks and alphas by layer, rank-stabilised scaling, whole
modules trained beside the adapter. These are read. A variant that computes something else
(DoRA, activated LoRA, an initialisation that changes the base) is refused by its name.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import write_json
from mobilellama.files.hub_folder import name_and_revision
from mobilellama.files.pretrained import load_adapted, load_causal_model
from mobilellama.files.safetensors_file import write_safetensors
from mobilellama.pretrain.hf.weight_files import open_weights, read_object
from mobilellama.pretrain.weight_source import HeldWeights, LayeredWeights, WeightSource
from mobilellama.progress import Progress
from mobilellama.sft.lora import LowRank, Merged, base_name, is_adapter
from mobilellama.sft.lora_config import LoraConfig

CONFIG_FILE, WEIGHTS_FILE, PICKLE_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
# Fields that say nothing of what is computed, or that are read here or seen in the weights' names.
_UNDERSTOOD = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "modules_to_save",
    "parent_library", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Those that leave the base's weights as they were.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")

# peft stores these by itself where it believes that the vocabulary was changed.
_SAVED_UNASKED = ("embed_tokens", "lm_head")


def write_adapter(
    folder: Path,
    source: WeightSource,
    config: LoraConfig,
    *,
    base: str,
) -> None:
    """Write the two files of an adapter, its weights in fp32 as they were trained.

    Args:
        folder: where to; it exists.
        source: gives the adapters by the names of an injected model.
        config: what the adapters were made with.
        base: path of the base model, or its name on the Hub with or without a revision, for whom
            loads the adapter.
    """
    name, revision = name_and_revision(base)
    # The keys that every version of peft knows: older ones refuse what they do not.
    adapters = {name: source.shape(name) for name in source.names() if is_adapter(name)}
    leaves = dict.fromkeys(name.partition(".lora_")[0].rpartition(".")[2] for name in adapters)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": config.targets or [*leaves],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    write_json(folder / CONFIG_FILE, settings)
    stored = {_PREFIX + name.replace(".default.", "."): adapters[name] for name in adapters}
    total_mb = sum(shape.numel() for shape in adapters.values()) * 4 / 1e6
    with Progress("adapter", total=total_mb, unit="MB") as progress:
        tensors = map(source.parameter, adapters)
        write_safetensors(folder / WEIGHTS_FILE, stored, torch.float32, tensors, progress)


@torch.no_grad()
def peft_logits(base: Path, adapter: Path, input_ids: Tensor) -> Tensor:
    """Return the logits that peft computes in fp32 with an adapter on a folder's model.

    Args:
        base: a Hugging Face folder.
        adapter: a peft folder.
        input_ids: (B, T) int64.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = load_causal_model(base, field="base", dtype=torch.float32)
    with warnings.catch_warnings():  # peft asks transformers 5.23 in a way that it deprecates
        warnings.simplefilter("ignore", FutureWarning)
        adapted = load_adapted(model, adapter)
    return adapted.eval()(input_ids=input_ids).logits


class AdapterFolder:
    """A LoRA adapter of peft, read whole.

    Args:
        folder: what peft's ``save_pretrained`` or 'mobilellama sft export' wrote.
        field: the config field that named the folder, for messages.

    Raises:
        ConfigError: it is no LoRA adapter, or of a variant that is more than W + scaling * B @ A.
        DataError: a file is damaged, or a weight has a name that LoRA does not explain.
    """

    def __init__(self, folder: str | Path, *, field: str = "adapter") -> None:
        self.folder, self._field = Path(folder), field
        path = self.folder / CONFIG_FILE
        if not path.is_file():
            rule = f"has no {CONFIG_FILE}" if self.folder.is_dir() else "is not a folder"
            remedy = "Give what 'mobilellama sft export' wrote of a LoRA run, or peft's own folder"
            raise ConfigError(field, str(folder), rule, remedy)
        self._settings = read_object(path)
        self._require_plain_lora(path)
        # module -> A and B; plain name -> a whole weight that replaces the base's
        self._factors, self._whole = self._sort(self._read())

    @property
    def base(self) -> str | None:
        """Name or path of the base model, as the adapter's maker wrote it."""
        return self._settings.get("base_model_name_or_path") or None

    @property
    def modules(self) -> list[str]:
        """The adapted modules, sorted."""
        return sorted(self._factors)

    @property
    def ranks(self) -> list[int]:
        """The ranks that occur, ascending."""
        return sorted({len(a) for a, _ in self._factors.values()})

    def over(self, base: WeightSource) -> WeightSource:
        """Return a base's weights with this adapter added, fp32.

        Raises:
            ConfigError: the adapter is one of another model.
        """
        shapes = {name: base.shape(name) for name in base.names()}
        for module, (a, b) in self._factors.items():
            shape = shapes.get(f"{module}.weight")
            found = f"{b.shape[0]} x {a.shape[1]}"
            if shape is None:
                raise self._foreign(f"adapts {module}, which the base does not have")
            if tuple(shape) != (b.shape[0], a.shape[1]):
                wanted = " x ".join(map(str, shape))
                raise self._foreign(f"adapts {module} as {found}, but the base's is {wanted}")
        for name, value in self._whole.items():
            if shapes.get(name) != value.shape:
                found = " x ".join(map(str, value.shape))
                rule = f"replaces {name} by one of {found}, which the base does not have"
                raise self._foreign(rule)
        adapted = {
            f"{module}.weight": self._low_rank(module, len(a))
            for module, (a, _) in self._factors.items()
        }
        # By the names of an injected model, whose bases may have plain ones.
        adapters = {
            f"{module}.lora_{half}.default.weight": factor
            for module, factors in self._factors.items()
            for half, factor in zip("AB", factors, strict=True)
        }
        beside = LayeredWeights(base, HeldWeights(self._whole), HeldWeights(adapters))
        return Merged(beside, adapted)

    def _foreign(self, rule: str) -> ConfigError:
        remedy = f"Give the base that it was trained on ({self.base or 'it does not say which'})"
        return ConfigError(self._field, str(self.folder), rule, remedy)

    def _low_rank(self, module: str, rank: int) -> LowRank:
        """Return a module's rank and scaling as peft finds them; patterns go before the defaults.

        Raises:
            DataError: the weights have another rank.
        """
        from peft.utils.other import get_pattern_key

        def setting(pattern: str, otherwise: str) -> object:
            values = self._settings.get(pattern) or {}
            key = get_pattern_key(list(values), module)
            return values.get(key, self._settings.get(otherwise, 8))  # peft's own defaults

        declared, alpha = setting("rank_pattern", "r"), setting("alpha_pattern", "lora_alpha")
        if declared != rank:
            what = f"{module} has rank {rank}, but {CONFIG_FILE} says {declared}"
            raise DataError(f"{self.folder}: {what}")
        if not isinstance(alpha, int | float):
            what = f"{CONFIG_FILE} says {module} has lora_alpha {alpha!r}, which is not a number"
            raise DataError(f"{self.folder}: {what}")
        root = math.sqrt(rank) if self._settings.get("use_rslora") else rank
        return LowRank(rank, alpha / root)

    def _require_plain_lora(self, path: Path) -> None:
        """Raise ConfigError for a setting under which merging would be something else."""
        settings = self._settings
        remedy = "Merge it with the library that made it"
        if settings.get("peft_type") != "LORA":
            raise ConfigError(
                f"{path}: peft_type", settings.get("peft_type"), "must be LORA", remedy
            )
        how = settings.get("init_lora_weights", True)
        if how not in _INITIALISATIONS:
            rule = "changes the base model's weights, and only peft can repeat that"
            raise ConfigError(f"{path}: init_lora_weights", how, rule, remedy)
        for key, value in settings.items():
            if value and key not in _UNDERSTOOD:
                rule = "adds more than W + scaling * B @ A"
                raise ConfigError(f"{path}: {key}", value, rule, remedy)

    def _read(self) -> dict[str, Tensor]:
        for path in (self.folder / WEIGHTS_FILE, self.folder / PICKLE_FILE):
            if path.is_file():
                file = open_weights(path)
                return {name: file.stored(name) for name in file.names()}
        rule = f"has neither {WEIGHTS_FILE} nor {PICKLE_FILE}"
        raise ConfigError(self._field, str(self.folder), rule, "Give a whole adapter")

    def _sort(
        self, stored: Mapping[str, Tensor]
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
        """Return A and B by module, and whole weights by plain name.

        Raises:
            DataError: a name or a shape is not what LoRA's must be.
        """
        names = {name.removeprefix(_PREFIX): name for name in stored}
        halves = {name for name in names if name.endswith((_A, _B))}
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for module in sorted({name.removesuffix(_A).removesuffix(_B) for name in halves}):
            if not {module + _A, module + _B} <= halves:
                raise DataError(f"{self.folder}: {module} has one of lora_A and lora_B only")
            a, b = (stored[names[module + suffix]].float() for suffix in (_A, _B))
            if a.dim() != 2 or b.dim() != 2 or len(a) != b.shape[1] or not len(a):
                what = f"lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} do not multiply"
                raise DataError(f"{self.folder}: {module}: {what}")
            factors[module] = a, b
        kept = self._settings.get("modules_to_save") or []
        whole: dict[str, Tensor] = {}
        for name in sorted({*names} - halves):
            # Beside an adapted head peft stores the head itself, as lm_head.base_layer.weight.
            module, _, leaf = base_name(name).rpartition(".")
            if leaf != "weight" or not module.endswith((*kept, *_SAVED_UNASKED)):
                raise DataError(
                    f"{self.folder}: '{names[name]}' is not a weight of a LoRA adapter or of its "
                    "modules_to_save"
                )
            whole[base_name(name)] = stored[names[name]].float()
        if not factors:
            raise DataError(f"{self.folder}: it holds no lora_A and lora_B")
        return factors, whole
