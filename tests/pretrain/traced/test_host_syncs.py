"""What makes the CPU wait for a GPU in a forward and backward pass; counted on a CPU."""

from itertools import chain

import pytest
from torch import Tensor

from tests.pretrain.traced.host_syncs import HostSyncs
from tests.pretrain.traced.small import DOCUMENTS, batch, bounds, model, positions, train_on


@pytest.mark.usefixtures("flash")
def test_documents_cost_one_wait_for_the_device_in_positions_and_none_in_bounds() -> None:
    made = model()
    with HostSyncs() as of_positions:
        # It has two: the other looks for the supervised tokens.
        made(**batch(0), position_ids=positions(DOCUMENTS[0]))
    assert of_positions.names == ["nonzero", "nonzero"]
    with HostSyncs() as of_bounds:
        train_on(made, batch(0) | {"document_bounds": bounds(DOCUMENTS[0])})
    assert of_bounds.names == []


def test_the_loop_waits_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    read, tolist = list[int](), Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda its: read.append(len(its)) or tolist(its))
    model()(**batch(0), document_bounds=bounds(DOCUMENTS[0]))
    assert read == [len(list(chain.from_iterable(DOCUMENTS[0])))]
