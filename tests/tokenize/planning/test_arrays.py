import pytest

from mobilellama.tokenize.planning.arrays import array_advice, suitable_task_count


@pytest.mark.parametrize(
    ("slices", "workers", "largest", "count"),
    [(2_450, 16, 1001, 154), (2_450, 1, 1001, 1001), (5, 16, 1001, 1), (0, 4, 1001, 1)],
)
def test_each_worker_gets_a_slice_if_the_array_may_be_so_large(
    slices: int, workers: int, largest: int, count: int
) -> None:
    assert suitable_task_count(slices, workers, largest) == count


def test_indices_of_the_largest_array_end_below_its_size() -> None:
    advice = array_advice(5_000, 1, 1_001, 1_001)
    assert advice == (
        "sbatch --array=0-1000, and --task_count 1001 for each task "
        "(up to 5 slices each with 1 worker)"
    )


def test_more_tasks_than_an_array_holds_are_several_arrays() -> None:
    """2,500 tasks of arrays of 1,001: indices 0-1000, 0-1000 and 0-497."""
    advice = array_advice(5_000, 2, 2_500, 1_001)
    assert "task_count = 2,500 is more than one array may hold (MaxArraySize = 1,001" in advice
    assert "submit 3 arrays: number k, from 0, with --array=0-1000 and" in advice
    assert "--task_index $((SLURM_ARRAY_TASK_ID + k * 1001)); the last one to 497" in advice


def test_tasks_without_work_are_told() -> None:
    assert array_advice(3, 1, 8, 1_001).endswith(". 5 tasks have nothing to do")
