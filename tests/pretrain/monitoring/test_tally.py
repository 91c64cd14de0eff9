"""A step's losses, added up by group."""

import pytest
import torch

from mobilellama.pretrain.monitoring.tally import Tally


def test_a_tally_adds_up_samples_by_group_over_micro_batches() -> None:
    tally = Tally(3, torch.device("cpu"))
    tally.add(torch.tensor([0, 2, 0]), torch.tensor([1.5, 10.0, 2.0]), torch.tensor([10, 20, 30]))
    tally.add(torch.tensor([2]), torch.tensor([0.25]), torch.tensor([5]))
    reduced = tally.with_flag(True).tolist()
    assert reduced[-1] == 1.0 and tally.with_flag(False).tolist()[-1] == 0.0
    losses = tally.losses(reduced)
    assert (losses.loss_sums, losses.tokens) == ([3.5, 0, 10.25], [40, 0, 25])
    assert losses.mean == pytest.approx(13.75 / 65)
