"""The schedule at its knots, with the arithmetic written out."""

import math

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.schedule import ScheduleConfig


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 10),  # (0 + 1) / warmup_steps
        (8, 9 / 10),
        (9, 1.0),  # the last step of warm-up: (9 + 1) / 10
        (10, 1.0),  # the cosine's first: progress 0
        # The cosine spans the steps 10 ... 110 (max_steps - 1); step 35 is a quarter of it:
        # 0.1 + 0.45 * (1 + cos(pi / 4)) = 0.1 + 0.45 * 1.70711
        (35, 0.868198),
        (60, 0.55),  # half: 0.1 + 0.45 * (1 + 0)
        (110, 0.1),  # the last step is the minimum
        (111, 0.1),
        (10_000, 0.1),
    ],
)
def test_warm_up_is_linear_and_a_cosine_follows_to_the_last_step(step: int, factor: float) -> None:
    schedule = ScheduleConfig(warmup_steps=10, min_lr_share=0.1)
    assert schedule.factor(step, max_steps=111) == pytest.approx(factor, abs=1e-6)


def test_the_papers_rates() -> None:
    """3e-4 after 2000 steps, 3e-5 at the last of 247,955."""
    schedule, steps = ScheduleConfig(), 247_955
    assert 3e-4 * schedule.factor(0, steps) == pytest.approx(1.5e-7)  # 3e-4 / 2000
    assert 3e-4 * schedule.factor(1_999, steps) == pytest.approx(3e-4)
    assert 3e-4 * schedule.factor(247_954, steps) == pytest.approx(3e-5)
    # Step 100,000: 3e-5 + 1.35e-4 * (1 + cos(pi * 98,000 / 245,954))
    cosine = math.cos(math.pi * 98_000 / 245_954)
    assert 3e-4 * schedule.factor(100_000, steps) == pytest.approx(3e-5 + 1.35e-4 * (1 + cosine))


def test_without_warm_up_the_first_step_runs_at_the_peak() -> None:
    schedule = ScheduleConfig(warmup_steps=0, min_lr_share=0.2)
    shares = [1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2, 0.0]
    assert [schedule.factor(step, max_steps=5) for step in range(5)] == pytest.approx(
        [0.2 + 0.8 * share for share in shares]
    )
    assert schedule.factor(0, max_steps=1) == 1.0


@pytest.mark.parametrize("max_steps", [1, 5, 9, 10])
def test_a_run_no_longer_than_its_warm_up_only_warms_up(max_steps: int) -> None:
    schedule = ScheduleConfig(warmup_steps=10)
    factors = [schedule.factor(step, max_steps) for step in range(max_steps)]
    assert factors == pytest.approx([(step + 1) / 10 for step in range(max_steps)])


def test_a_single_step_after_warm_up_runs_at_the_peak() -> None:
    assert ScheduleConfig(warmup_steps=10).factor(10, max_steps=11) == 1.0


def test_the_factor_never_rises_after_warm_up_nor_leaves_its_bounds() -> None:
    schedule = ScheduleConfig(warmup_steps=7, min_lr_share=0.3)
    factors = [schedule.factor(step, max_steps=50) for step in range(60)]
    after = factors[7:]
    assert after == sorted(after, reverse=True)
    assert min(after) == pytest.approx(0.3) and max(factors) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup_steps": -1}, "schedule.warmup_steps = -1: must be at least 0"),
        ({"min_lr_share": 1.1}, "schedule.min_lr_share = 1.1: must be a share"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**fields)  # pyright: ignore[reportArgumentType]


def test_warm_up_may_be_a_share_of_the_run_rounded_up() -> None:
    schedule = ScheduleConfig(warmup_steps=7, warmup_share=0.04, min_lr_share=0.0)
    assert [schedule.warmup(steps) for steps in (100, 101, 1, 0)] == [4, 5, 1, 0]
    assert [schedule.factor(step, 100) for step in (0, 3)] == [0.25, 1.0]


def test_a_cosine_to_0_leaves_the_last_step_a_rate() -> None:
    """0.5 * (1 + cos(pi * (99 - 4) / (100 - 4))), as transformers' get_cosine_schedule."""
    schedule = ScheduleConfig(warmup_steps=4, min_lr_share=0.0)
    assert schedule.factor(99, 100) == pytest.approx(0.00026771, rel=1e-4)
    assert schedule.factor(100, 100) == 0.0


def test_a_warm_up_share_of_the_whole_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule.warmup_share = 1.0: must be at least 0"):
        ScheduleConfig(warmup_share=1.0)
