"""The plan of a run as tables for a terminal."""

from dataclasses import asdict

from mobilellama.pretrain.planning.outlook import RunOutlook
from mobilellama.progress import format_amount, format_count
from mobilellama.table import aligned
from mobilellama.terminal import folded, result_columns

_WIDTH = 80
_LABEL = 15


def shown_plan(outlook: RunOutlook) -> str:
    """Return the tables and what stands below them, as wide as the terminal, else 80 columns."""
    width = result_columns() or _WIDTH
    rows = [["parameters", "count"]]
    rows += [[part, f"{count:,}"] for part, count in outlook.parameters.items()]
    rows.append(["total", f"{sum(outlook.parameters.values()):,}"])
    kinds = [["memory of one GPU", "GiB"]]
    kinds += [
        [name.replace("_", " "), _gib(size)] for name, size in asdict(outlook.memory_bytes).items()
    ]
    kinds += [["total", _gib(outlook.memory_bytes.total)], ["room", _gib(outlook.room_bytes)]]
    lines = [aligned(rows), "", aligned(kinds), ""]
    for label, text in _below(outlook).items():
        lines += folded(f"{label:<{_LABEL}}{text}", width, others=" " * _LABEL)
    return "\n".join(lines)


def _below(outlook: RunOutlook) -> dict[str, str]:
    again = "with" if outlook.gradient_checkpointing else "without"
    return {
        "run": f"{outlook.engine}, {outlook.precision}, {outlook.gpus:,} x {outlook.gpu}; "
        f"{format_count(outlook.micro_batches, 'micro-batch')} of "
        f"{format_count(outlook.micro_batch_size, 'sample')} a step, {again} gradient "
        "checkpointing",
        "fit": _fit(outlook),
        "largest": f"micro-batch {_size(outlook.largest_micro_batch)} without gradient "
        f"checkpointing, {_size(outlook.largest_micro_batch_checkpointing)} with it",
        "step": f"{outlook.tokens_per_step:,} tokens, {outlook.flops_per_step / 1e15:,.1f} PFLOP, "
        f"{outlook.step_s:,.2f} s",
        "communication": f"{_size_text(outlook.sent_bytes_per_step)} a step from each GPU, "
        f"{outlook.communication_s:,.2f} s if none of it is hidden",
        "time": f"{outlook.hours:,.1f} h ({outlook.hours / 24:,.1f} days), "
        f"{outlook.gpu_hours:,.0f} GPU-hours at an MFU of {outlook.mfu:g}",
        "save": f"{_size_text(outlook.checkpoint_bytes)}, stops the training for "
        f"{outlook.stall_s:,.1f} s",
        "disk": f"{_size_text(outlook.disk_bytes)}: "
        f"{format_count(outlook.checkpoints, 'checkpoint')}, one more while it is saved"
        f"{', and the frozen weights once' if outlook.frozen_parameters else ''}",
    }


def _fit(outlook: RunOutlook) -> str:
    if outlook.fits:
        return "it fits"
    if not outlook.remedies:
        return (
            "it does not fit, and no single change of these makes it fit: a smaller micro-batch, "
            "gradient checkpointing, ZeRO-2, more GPUs"
        )
    return f"it does not fit. Any of these fits: {'; '.join(outlook.remedies)}"


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def _size(size: int | None) -> str:
    return "none" if size is None else str(size)


def _size_text(size: float) -> str:
    return format_amount(size / 1e6, "MB")
