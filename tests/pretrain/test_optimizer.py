"""Parameter groups: every parameter in one, and norms alone without decay."""

import torch

from mobilellama.pretrain.model import LanguageModel
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.sections import ModelConfig

TINY = ModelConfig(vocab_size=40, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_seq_len=32)


def test_every_parameter_is_in_one_group_and_norms_alone_do_not_decay() -> None:
    with torch.device("meta"):
        model = LanguageModel(TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {g.name: g for g in parameter_groups(model.named_parameters(), OptimizerConfig())}
    grouped = [names[id(p)] for group in groups.values() for p in group.parameters]
    assert sorted(grouped) == sorted(names.values())
    assert {names[id(p)] for p in groups["norms"].parameters} == {
        "model.norm.weight",
        *(
            f"model.layers.{layer}.{norm}.weight"
            for layer in range(2)
            for norm in ("input_layernorm", "post_attention_layernorm")
        ),
    }
    assert (groups["norms"].weight_decay, groups["matrices"].weight_decay) == (0.0, 0.1)
    assert groups["norms"].learning_rate == groups["matrices"].learning_rate == 3e-4
