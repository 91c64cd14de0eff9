"""Which job array suits a number of slices."""

from mobilellama.progress import format_count

MAX_ARRAY_SIZE = 1001
"""SLURM's own default of MaxArraySize. The largest index of an array is one less (slurm.conf)."""


def suitable_task_count(slices: int, workers: int, max_array_size: int) -> int:
    """Return a number of tasks that gives each worker of each task a slice.

    Args:
        slices: of the corpus.
        workers: processes of a task.
        max_array_size: ``MaxArraySize`` of the cluster, whose indices are below it.
    """
    return max(1, min(-(-slices // workers), max_array_size))


def array_advice(slices: int, workers: int, task_count: int | None, max_array_size: int) -> str:
    """Return one paragraph: which task_count and which array to give.

    Args:
        slices: of the corpus.
        workers: processes of a task.
        task_count: what the user wants; None if nothing is given.
        max_array_size: ``MaxArraySize`` of the cluster.
    """
    count = task_count or suitable_task_count(slices, workers, max_array_size)
    if count <= max_array_size:
        advice = f"sbatch --array=0-{count - 1}, and --task_count {count} for each task"
        idle = f". {count - slices:,} tasks have nothing to do" if count > slices else ""
        return f"{advice} ({_each(slices, count)} with {format_count(workers, 'worker')}){idle}"
    arrays = -(-count // max_array_size)
    return (
        f"task_count = {count:,} is more than one array may hold (MaxArraySize = "
        f"{max_array_size:,}, indices below it). Give a task_count of up to {max_array_size:,}, "
        f"so that each task does more slices. Or submit {arrays:,} arrays: number k, from 0, with "
        f"--array=0-{max_array_size - 1} and "
        f"--task_index $((SLURM_ARRAY_TASK_ID + k * {max_array_size})); the last one to "
        f"{(count - 1) % max_array_size}"
    )


def _each(slices: int, count: int) -> str:
    most = -(-slices // count)
    return "a slice each" if most == 1 else f"up to {most:,} slices each"
