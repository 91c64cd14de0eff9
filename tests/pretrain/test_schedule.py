"""The schedule at its knots, with the arithmetic written out."""

import math
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.schedule import (
    ScheduleConfig,
    Shape,
    change_text,
    schedule_text,
    stored_schedule,
)


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
    schedule = ScheduleConfig(warmup_steps=10, min_lr_ratio=0.1)
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
    schedule = ScheduleConfig(warmup_steps=0, min_lr_ratio=0.2)
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
    schedule = ScheduleConfig(warmup_steps=7, min_lr_ratio=0.3)
    factors = [schedule.factor(step, max_steps=50) for step in range(60)]
    after = factors[7:]
    assert after == sorted(after, reverse=True)
    assert min(after) == pytest.approx(0.3) and max(factors) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup_steps": -1}, "schedule.warmup_steps = -1: must be at least 0"),
        ({"min_lr_ratio": 1.1}, "schedule.min_lr_ratio = 1.1: must be a share"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**fields)  # pyright: ignore[reportArgumentType]


def test_warm_up_may_be_a_share_of_the_run_rounded_up() -> None:
    schedule = ScheduleConfig(warmup_steps=7, warmup_ratio=0.04, min_lr_ratio=0.0)
    assert [schedule.warmup(steps) for steps in (100, 101, 1, 0)] == [4, 5, 1, 0]
    assert [schedule.factor(step, 100) for step in (0, 3)] == [0.25, 1.0]


def test_a_cosine_to_0_leaves_the_last_step_a_rate() -> None:
    """0.5 * (1 + cos(pi * (99 - 4) / (100 - 4))), as transformers' get_cosine_schedule."""
    schedule = ScheduleConfig(warmup_steps=4, min_lr_ratio=0.0)
    assert schedule.factor(99, 100) == pytest.approx(0.00026771, rel=1e-4)
    assert schedule.factor(100, 100) == 0.0


def test_a_warm_up_share_of_the_whole_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule.warmup_ratio = 1.0: must be at least 0"):
        ScheduleConfig(warmup_ratio=1.0)


def test_the_default_kind_gives_bit_for_bit_the_formula_that_runs_began_with() -> None:
    """min + (1 - min) / 2 * (1 + cos(pi * progress)), as it was before there were kinds."""
    schedule, steps = ScheduleConfig(warmup_steps=20, min_lr_ratio=0.1), 1_000
    assert schedule.kind == "cosine"
    for step in range(20, steps):
        cosine = 1 + math.cos(math.pi * ((step - 20) / (steps - 1 - 20)))
        assert schedule.factor(step, steps) == 0.1 + (1 - 0.1) / 2 * cosine


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (4, 0.5),  # warm-up: (4 + 1) / 10
        (9, 1.0),
        (10, 1.0),  # progress 0
        (35, 0.775),  # progress (35 - 10) / (110 - 10) = 1 / 4: 0.1 + 0.9 * 3 / 4
        (60, 0.55),
        (109, 0.109),  # 0.1 + 0.9 * 1 / 100
        (110, 0.1),  # the last step is the minimum
        (500, 0.1),
    ],
)
def test_linear_falls_in_a_straight_line_from_the_warm_up_to_the_last_step(
    step: int, factor: float
) -> None:
    schedule = ScheduleConfig(kind="linear", warmup_steps=10, min_lr_ratio=0.1)
    assert schedule.factor(step, max_steps=111) == pytest.approx(factor)


def test_a_straight_line_to_0_leaves_the_last_step_a_rate() -> None:
    """(100 - 99) / (100 - 4), as transformers' get_linear_schedule_with_warmup."""
    schedule = ScheduleConfig(kind="linear", warmup_steps=4, min_lr_ratio=0.0)
    assert schedule.factor(99, 100) == pytest.approx(1 / 96)
    assert schedule.factor(100, 100) == 0.0


@pytest.mark.parametrize("step", [9, 10, 50, 99, 1_000])
def test_constant_stays_at_the_peak_after_the_warm_up(step: int) -> None:
    schedule = ScheduleConfig(kind="constant", warmup_steps=10)
    assert schedule.factor(step, max_steps=100) == 1.0
    assert schedule.factor(4, max_steps=100) == 0.5


@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        # The last 20 of 100 steps fall, so step 79 is the last at the peak; steps 84, 89 and 99 are
        # at progress 5 / 20, 10 / 20 and 20 / 20 of the way.
        ("linear", {84: 0.1 + 0.9 * 0.75, 89: 0.1 + 0.9 * 0.5}),
        ("cosine", {84: 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2, 89: 0.1 + 0.9 * 0.5}),
        ("sqrt", {84: 0.1 + 0.9 * (1 - 0.5), 89: 0.1 + 0.9 * (1 - math.sqrt(0.5))}),
    ],
)
def test_wsd_holds_the_peak_and_falls_over_the_last_steps(
    shape: Shape, factors: dict[int, float]
) -> None:
    schedule = ScheduleConfig(
        kind="wsd", warmup_steps=10, min_lr_ratio=0.1, decay_steps=20, decay_shape=shape
    )
    assert [schedule.factor(step, 100) for step in (4, 9, 10, 40, 79)] == [0.5, 1, 1, 1, 1]
    assert schedule.factor(80, 100) < 1
    assert {step: schedule.factor(step, 100) for step in factors} == pytest.approx(factors)
    assert schedule.factor(99, 100) == pytest.approx(0.1)


def test_wsd_to_0_reaches_it_one_step_after_the_last() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=0, min_lr_ratio=0.0, decay_steps=4)
    # Five steps from the last at the peak, 5, to the one after the last, 10.
    factors = [schedule.factor(step, 10) for step in range(5, 11)]
    assert factors == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_wsds_decay_is_a_tenth_of_the_run_or_the_ratio_rounded_up() -> None:
    assert ScheduleConfig(kind="wsd").decay(1_001) == 101
    assert ScheduleConfig(kind="wsd", decay_ratio=0.07).decay(100) == 7
    assert ScheduleConfig(kind="wsd", decay_steps=3).decay(100) == 3


def test_wsds_decay_takes_no_more_than_the_warm_up_leaves() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=6, min_lr_ratio=0.1, decay_ratio=1.0)
    # Step 5 ends the warm-up; the four left fall by a quarter of 0.9 each.
    factors = [schedule.factor(step, 10) for step in range(5, 10)]
    assert factors == pytest.approx([1.0, 0.775, 0.55, 0.325, 0.1])


def test_the_steps_of_wsd_before_its_decay_do_not_know_how_long_the_run_is() -> None:
    """So a run can be saved there and made longer, or annealed from there."""
    schedule = ScheduleConfig(kind="wsd", warmup_steps=10, decay_steps=20)
    short = [schedule.factor(step, 100) for step in range(80)]
    assert short == [schedule.factor(step, 1_000) for step in range(80)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay_steps": 5}, "schedule.decay_steps = 5: has no effect with schedule.kind "),
        (
            {"kind": "linear", "decay_shape": "sqrt"},
            "schedule.decay_shape = sqrt: has no effect with",
        ),
        ({"kind": "wsd", "decay_ratio": 0.0}, "schedule.decay_ratio = 0.0: must be above 0"),
        ({"kind": "wsd", "decay_ratio": 1.5}, "schedule.decay_ratio = 1.5: must be above 0"),
        ({"kind": "wsd", "decay_steps": 0}, "schedule.decay_steps = 0: must be at least 1"),
        (
            {"kind": "wsd", "decay_ratio": 0.1, "decay_steps": 5},
            "schedule.decay_steps = 5: is given together with schedule.decay_ratio = 0.1",
        ),
    ],
)
def test_a_decay_that_the_kind_has_not_or_that_cannot_be_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "warm-up to 0.0003 over 2,000 steps, then cosine to 3e-05 at step 10,000"),
        (
            {"kind": "linear", "warmup_steps": 1, "min_lr_ratio": 0.0},
            "warm-up to 0.0003 over 1 step, then linear to 0 at step 10,000",
        ),
        ({"kind": "constant", "warmup_steps": 0}, "0.0003 from the first step, then constant"),
        (
            {"kind": "wsd", "decay_shape": "sqrt"},
            "warm-up to 0.0003 over 2,000 steps, then constant to step 9,000, then 1 - sqrt to "
            "3e-05 at step 10,000",
        ),
        (
            {"kind": "wsd", "decay_ratio": 1.0},
            "warm-up to 0.0003 over 2,000 steps, then linear to 3e-05 at step 10,000",
        ),
        (
            {"warmup_steps": 20_000},
            "warm-up to 0.0003 over 20,000 steps, of which the run has 10,000",
        ),
    ],
)
def test_a_schedule_describes_itself(fields: dict[str, Any], text: str) -> None:
    assert ScheduleConfig(**fields).describe(3e-4, 10_000) == text


def test_a_stored_config_without_a_kind_is_a_cosine() -> None:
    section = {"warmup_steps": 2_000, "warmup_ratio": 0.04, "min_lr_ratio": 0.0}
    config = {"schedule": section, "train": {"max_steps": None, "steps": 100}}
    assert stored_schedule(config, step=40) == (
        ScheduleConfig(warmup_ratio=0.04, min_lr_ratio=0.0),
        100,
    )
    assert schedule_text(config, 0.01, step=40) == (
        "warm-up to 0.01 over 4 steps, then cosine to 0 at step 100"
    )


COSINE = ScheduleConfig(warmup_steps=2)
LINEAR = ScheduleConfig(kind="linear", warmup_steps=2)


def test_a_longer_run_tells_what_the_new_steps_do_to_the_learning_rate() -> None:
    """Step 9 is number 8: 0.1 + 0.45 * (1 + cos(pi * (8 - 2) / (15 - 2))) = 0.604."""
    assert change_text((COSINE, 8), (COSINE, 16), step=8) == (
        "the learning rate goes from 10 % of its peak at step 8 to 60.4 % at step 9 (the run was "
        "at its end) and to 10 % at step 16, the last; it rises again, and the loss may rise with "
        "it for a while"
    )


def test_another_schedule_in_the_middle_tells_what_was_to_be() -> None:
    """Number 4 of 8 is at progress 2 / 5; linear leaves 0.64, cosine 0.1 + 0.45 * 1.309."""
    assert change_text((COSINE, 8), (LINEAR, 8), step=4) == (
        "the learning rate goes from 91.4 % of its peak at step 4 to 64 % at step 5 (was to be "
        "68.9 %) and to 10 % at step 8, the last"
    )


@pytest.mark.parametrize(("now", "step"), [((COSINE, 8), 4), ((COSINE, 4), 4), ((LINEAR, 8), 0)])
def test_what_changes_no_step_that_is_left_is_not_told(
    now: tuple[ScheduleConfig, int], step: int
) -> None:
    assert change_text((COSINE, 8), now, step) is None
