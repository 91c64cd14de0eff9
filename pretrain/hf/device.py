"""Where a Hugging Face folder's model runs, and in which dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mobilellama.config import ConfigError, did_you_mean, one_line

if TYPE_CHECKING:  # it takes long to import, which --help does without
    import torch

DtypeName = Literal["bf16", "fp16", "fp32"]
_DTYPES: dict[str, DtypeName] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
DTYPE_NAMES: dict[str, str] = {short: name for name, short in _DTYPES.items()}
"""torch's and transformers' names of the dtypes."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model runs, and in which dtype."""

    device: str = "auto"
    """cpu, cuda or cuda:N. auto: the first GPU, or the CPU if there is none."""
    dtype: Literal["auto", DtypeName] = "auto"
    """Dtype of the weights. auto: on GPUs bf16 if they have it, else fp16; on CPUs as stored, with
    fp16 as fp32."""


def find_device(name: str) -> "torch.device":
    """Return the torch.device of a name; of "auto", the first GPU where one is seen.

    Raises:
        ConfigError: it is no device's name, or the device cannot be used.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        remedy = f"Use auto, cpu, cuda or cuda:N{did_you_mean(name, ['cuda', 'cpu'])}"
        raise ConfigError("device", name, "is not a device", remedy) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        rule = f"does not exist: torch sees {torch.cuda.device_count()} GPUs"
        raise ConfigError("device", name, rule, "Use auto or cpu")
    try:
        torch.zeros(1, device=device)  # other kinds; a GPU that another process holds
    except (RuntimeError, AssertionError) as error:
        rule = f"cannot be used ({one_line(error).rstrip('.')})"
        raise ConfigError("device", name, rule, "Use auto, cpu, cuda or cuda:N") from None
    return device


def choose_dtype(
    name: Literal["auto", DtypeName],
    device: "torch.device",
    read_config: Callable[[], object],
    *,
    prefer: Literal["speed", "precision"],
) -> DtypeName:
    """Return the dtype of the weights: bf16, fp16 or fp32.

        auto             on a GPU                          on a CPU
        for speed        bf16 if it has that, else fp16    as stored, fp16 as fp32
        for precision    as stored                         fp32

    Args:
        name: the user's choice, or "auto".
        device: from ``find_device``.
        read_config: gives transformers' config; called where the stored dtype matters.
        prefer: what "auto" is for. Half precision halves the memory that a CPU's model takes,
            but fp16 is slow there.
    """
    if name != "auto":
        return name
    on_cpu = device.type == "cpu"
    if prefer == "precision":
        return "fp32" if on_cpu else _stored(read_config())
    if device.type == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    stored = _stored(read_config())
    return "fp32" if stored == "fp16" else stored


def _stored(config: object) -> DtypeName:
    """Return the dtype that a config names; fp32 where it names none of ours."""
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")  # a string in version 4
    return _DTYPES.get(stored, "fp32")
