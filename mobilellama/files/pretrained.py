"""Load folders of transformers and peft, without running any code in them.

All loading goes through this file. transformers runs Python code of a folder if
``trust_remote_code`` is true, and asks on the console if it is not set. Here it is always false. If
a folder needs its own code (``foreign_code``) or has a pickle that calls some
(``pickles.pickle_error``), every command gives the same error. For a folder on this machine,
nothing is downloaded.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.files.foreign_tokenizer import ForeignTokenizer
from mobilellama.files.pickles import code_in, pickle_error
from mobilellama.files.unmarked import without_marks

if TYPE_CHECKING:  # they import torch, which --help does without
    import torch
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

    Loaded = TypeVar("Loaded", bound=PreTrainedModel)

T = TypeVar("T")

_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")
_WEIGHTS = ("*.bin", "*.safetensors", "*.pt", "*.pth")
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
_MOST_NAMED = 3  # weights in one message
_REMEDY = "Give a folder whose architecture transformers has, or convert it if you trust it"


class _Report(TypedDict):
    """What transformers says of the weights that it loaded."""

    missing_keys: set[str]
    mismatched_keys: set[tuple[str, Sequence[int], Sequence[int]]]
    """The name, the shape in the file and the shape in the model."""


def load_config(model: str | Path, *, field: str = "model") -> "PretrainedConfig":
    """Return transformers' config of a folder.

    Raises:
        ConfigError: it would run code.
    """
    from transformers import AutoConfig

    return _load(AutoConfig.from_pretrained, model, field)


def load_tokenizer(
    model: str | Path, *, field: str = "model", add_bos_token: bool | None = None
) -> ForeignTokenizer:
    """Return transformers' tokenizer of a folder.

    Args:
        model: which.
        field: the field that names it, for errors.
        add_bos_token: whether encoding puts the begin token first. None: as the folder says.

    Raises:
        ConfigError: it would run code.
    """
    from transformers import AutoTokenizer

    load = cast(Callable[..., ForeignTokenizer], AutoTokenizer.from_pretrained)
    options = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    return _load(load, model, field, **options)


def load_causal_model(
    model: str | Path, *, field: str = "model", dtype: "torch.dtype | str | None" = None
) -> "PreTrainedModel":
    """Return transformers' causal language model of a folder.

    Args:
        model: which.
        field: the field that names it, for errors.
        dtype: the dtype of the weights, or its name. None: transformers' own choice.

    Raises:
        ConfigError: it would run code.
        DataError: its weights are a pickle that would run code. Or one is missing, or has another
            shape than config.json says.
    """
    from transformers import AutoModelForCausalLM

    _require_no_kernel(model, field)
    options = {} if dtype is None else {"dtype": dtype}
    return _load_whole(AutoModelForCausalLM.from_pretrained, model, field, **options)


def _load_whole(
    load: Callable[..., object], model: str | Path, field: str, /, **options: object
) -> Any:
    """Return what a ``from_pretrained`` loads, with every weight from the folder.

    transformers gives weights that are missing random values, and only warns. Of weights of another
    shape it raises an error that advises to do the same. Both are in its report.
    """
    reported = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    load_both = cast("Callable[..., tuple[object, _Report]]", load)
    loaded, report = _load(load_both, model, field, weights_only=True, **reported, **options)
    _require_whole(report, model)
    return loaded


def _require_whole(report: _Report, model: str | Path) -> None:
    """Raise DataError if transformers' report has weights that did not come from the folder."""
    faults = {str(name): "is missing" for name in report["missing_keys"]}
    for name, found, needed in report["mismatched_keys"]:
        faults[str(name)] = f"has shape {tuple(found)}, but config.json says {tuple(needed)}"
    if not faults:
        return
    named = [f"{name} {fault}" for name, fault in sorted(faults.items())]
    more = f"; and {len(named) - _MOST_NAMED:,} more" if len(named) > _MOST_NAMED else ""
    raise DataError(
        f"{model}: the weights are not those of config.json: {'; '.join(named[:_MOST_NAMED])}"
        f"{more}. Copy the folder again, or correct config.json"
    )


def load_adapted(
    model: "PreTrainedModel", adapter: str | Path, *, field: str = "adapter"
) -> "PeftModel":
    """Return a model with the peft adapter of a folder added.

    Raises:
        DataError: its weights are a pickle that would run code.
    """
    from peft import PeftModel

    try:
        with without_marks(Path(adapter)) as folder:
            return PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    except Exception as error:
        _explain(error, adapter, field)
        raise


def load_tower(
    tower_class: "type[Loaded]", folder: str | Path, *, field: str = "vision"
) -> "Loaded":
    """Return a folder's model as a given class of transformers.

    Raises:
        DataError: its weights are a pickle that would run code. Or one is missing, or has another
            shape than config.json says.
    """
    return _load_whole(tower_class.from_pretrained, folder, field)


def build_causal_model(config: "PretrainedConfig", **options: object) -> "PreTrainedModel":
    """Build the causal language model of a transformers config, without reading weights.

    Raises:
        ValueError: transformers has no such model. Code that the config names is not run.
    """
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, trust_remote_code=False, **options)


def moved(model: "Loaded", device: "torch.device | str") -> "Loaded":
    """Move a model to a device, and return it. The type that transformers states is wrong."""
    cast("torch.nn.Module", model).to(device)
    return model


def require_no_code(folder: str | Path, *, field: str) -> None:
    """Raise ConfigError if a folder's model needs code that transformers does not have.

    Readers of config.json that know only some architectures call it for the others. If transformers
    has the architecture, code in the folder is ignored.
    """
    from transformers import CONFIG_MAPPING

    _require_no_kernel(folder, field)

    path = Path(folder) / "config.json"
    values = _read(path)
    if _reference(values) is not None and values.get("model_type") not in CONFIG_MAPPING:
        raise foreign_code(folder, field)


def foreign_code(model: str | Path, field: str) -> ConfigError:
    """Return the error for a folder that needs its own Python code."""
    named = ((name, _reference(_read(Path(model) / name))) for name in _CONFIGS)
    found = next(((name, what) for name, what in named if what), None)
    where = f"its {found[0]} needs its own Python code ({found[1]})" if found else "it has code"
    return ConfigError(field, str(model), f"{where}, which no command here runs", _REMEDY)


def _load(load: Callable[..., T], model: str | Path, field: str, /, **options: object) -> T:
    try:
        with without_marks(Path(model)) as folder:
            return load(str(folder), trust_remote_code=False, local_files_only=True, **options)
    except Exception as error:
        _explain(error, model, field)
        raise


def _explain(error: Exception, model: str | Path, field: str) -> None:
    """Raise the error for code that was not run, if that is the cause of `error`."""
    if isinstance(error, UserError):
        return
    if "trust_remote_code" in str(error):
        raise foreign_code(model, field) from None
    for path in _weights(Path(model)):
        if call := code_in(path):
            raise pickle_error(path, call) from None


def _weights(folder: Path) -> list[Path]:
    """Return a folder's files of weights, by their endings or by an index."""
    maps = [_read(path).get("weight_map") for path in folder.glob("*.index.json")]
    named = {folder / str(name) for its in maps if isinstance(its, dict) for name in its.values()}
    return sorted(named | {path for pattern in _WEIGHTS for path in folder.glob(pattern)})


def _require_no_kernel(model: str | Path, field: str) -> None:
    """Raise ConfigError if config.json names code on the Hub for its attention or experts."""
    values = _read(Path(model) / "config.json")
    for key, value in values.items():
        names = value.values() if isinstance(value, Mapping) else [value]
        if key in _KERNELS and any("/" in str(name) for name in names):
            rule = f"its config.json needs code from the Hub ({key}: {value})"
            remedy = f"Remove {key} from config.json"
            raise ConfigError(field, str(model), f"{rule}, which no command here runs", remedy)


def _reference(values: Mapping[str, object]) -> str | None:
    """Return the first class that ``auto_map`` names, such as ``modeling_x.X``; else None."""
    named = values.get("auto_map")
    found = named.values() if isinstance(named, Mapping) else [named] if named else []
    flat = [one for value in found for one in (value if isinstance(value, list) else [value])]
    return next((str(one) for one in flat if one), None)


def _read(path: Path) -> dict[str, object]:
    """Return a JSON object; an empty one if it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
