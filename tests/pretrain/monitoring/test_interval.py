"""The sums of an interval: what a checkpoint holds of them."""

import json

from mobilellama.pretrain.engines.engine import StepReport
from mobilellama.pretrain.monitoring.interval import Interval, StepResult
from mobilellama.pretrain.monitoring.tally import Losses


def result(*, loss: float, tokens: int) -> StepResult:
    return StepResult(
        num_samples=4,
        tokens=400,
        losses=Losses([loss, 0.3], [float(tokens), 0.0]),
        report=StepReport(grad_norm=0.5, applied=True),
        lr_factor=0.5,
        step_s=2.0,
        data_wait_s=0.25,
        stop_requested=False,
    )


def test_sums_go_on_from_their_json_to_the_last_bit() -> None:
    steps = [result(loss=0.1 * i, tokens=i) for i in range(1, 8)]
    whole, first = Interval(("book", "github")), Interval(("book", "github"))
    for step in steps:
        whole.add(step)
    for step in steps[:3]:
        first.add(step)
    second = Interval(("book", "github"), json.loads(json.dumps(first.state())))
    for step in steps[3:]:
        second.add(step)
    assert second.state() == whole.state()
    assert second.values(world_size=2) == whole.values(world_size=2)
    assert whole.num_steps == 7 and whole.state()["supervised_tokens"] == {"book": 28, "github": 0}


def test_a_step_whose_loss_is_no_number_stays_one_in_json() -> None:
    interval = Interval(("book", "github"))
    interval.add(result(loss=float("nan"), tokens=1))
    stored = json.loads(json.dumps(interval.state()))
    again = Interval(("book", "github"), stored).values(world_size=1)
    assert again["loss"] != again["loss"]


def test_means_are_over_tokens_ranks_and_steps() -> None:
    interval = Interval(("book", "github"))
    interval.add(result(loss=30.0, tokens=10))
    interval.add(result(loss=10.0, tokens=30))
    means = interval.values(world_size=2)
    assert means["loss/book"] == 1.0 and "loss/github" not in means
    assert means["loss"] == (40 + 0.6) / 40
    assert means["tokens_per_s_per_gpu"] == 800 / 4 / 2
    assert (means["step_s"], means["data_wait_s"]) == (2.0, 0.25)
    assert means["supervised_share"] == 40 / 800
