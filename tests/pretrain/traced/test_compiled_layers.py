"""Layers compile into whole graphs, few of them, whatever the documents; counted on a CPU."""

import pytest
import torch
from torch._dynamo.utils import counters

from mobilellama.pretrain.model import LanguageModel
from mobilellama.sft.lora import inject
from mobilellama.sft.lora_config import LoraConfig
from tests.pretrain.traced import flash_stand_in
from tests.pretrain.traced.small import CONFIG, DOCUMENTS, batch, bounds, model, positions, train_on


@pytest.fixture(autouse=True)
def _count_anew():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compile_layers(made: LanguageModel) -> None:
    for layer in made.model.layers:
        layer.compile(backend="aot_eager")


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("given", ["position_ids", "document_bounds"])
def test_documents_of_any_number_take_two_graphs_without_a_break_with_flash_attn(
    given: str,
) -> None:
    """The second graph is of any number of documents; the first is of the first batch's."""
    plain, compiled = model(), model()
    compile_layers(compiled)
    for i, lengths in enumerate(DOCUMENTS):
        inputs = batch(i) | {given: (positions if given == "position_ids" else bounds)(lengths)}
        expected, got = train_on(plain, inputs), train_on(compiled, inputs)
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2
    assert len(flash_stand_in.LENGTHS) == 2 * CONFIG.n_layers * len(DOCUMENTS)


def test_without_a_kernel_only_the_loop_is_left_out_and_nothing_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The four: norm, queries to values, output, and the rest of the layer."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
        plain, compiled = model(), model()
    compile_layers(compiled)
    for i, lengths in enumerate(DOCUMENTS):
        inputs = batch(i) | {"position_ids": positions(lengths)}
        torch.testing.assert_close(train_on(compiled, inputs), train_on(plain, inputs))
    assert counters["stats"]["unique_graphs"] == 4
    assert [reason for reason in counters["graph_break"] if "disable" not in reason] == []


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_layer_over_whole_samples_is_one_graph_with_adapters_and_recomputed(
    lora: bool, checkpointing: bool
) -> None:
    made = model()
    if lora:
        inject(made, LoraConfig(rank=4))
        made.bfloat16()
    made.model.gradient_checkpointing = checkpointing
    compile_layers(made)
    for i in range(3):
        loss = made(**batch(i)).loss_sum
        loss.backward()
    assert not counters["graph_break"]
    # With adapters the embedding is frozen: what comes into the first layer wants no gradient.
    assert counters["stats"]["unique_graphs"] == (2 if lora else 1)
    assert flash_stand_in.DETERMINISTIC == [False] * 3 * CONFIG.n_layers
