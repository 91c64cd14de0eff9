"""The model against Hugging Face's Llama on the same weights, and its initialisation."""

import math
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM

from mobilellama.config import ConfigError
from mobilellama.pretrain.model import LanguageModel, build_on, count_parameters, init_parameter
from mobilellama.pretrain.sections import ModelConfig

SHAPES = {
    "heads of 128": ModelConfig(
        vocab_size=131, d_model=256, n_layers=2, n_heads=2, d_ff=320, max_seq_len=64
    ),
    "heads of 80": ModelConfig(
        vocab_size=131, d_model=240, n_layers=2, n_heads=3, d_ff=320, max_seq_len=64
    ),
    "grouped": ModelConfig(
        vocab_size=131, d_model=256, n_layers=2, n_heads=8, n_kv_heads=2, d_ff=320,
        max_seq_len=64, rope_theta=500_000.0, norm_eps=1e-5,
    ),
}  # fmt: skip
TINY = ModelConfig(vocab_size=40, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_seq_len=32)


def initialised(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model on the CPU with its first weights; norms are moved off 1 so that they count."""
    model = build_on(torch.device("cpu"), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(init_parameter(name, parameter.shape, config, seed))
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            else:  # logits of order 1, so that a tolerance says something
                parameter.mul_(4)
    return model


def llama_of(config: ModelConfig, model: LanguageModel) -> LlamaForCausalLM:
    """transformers' Llama with this model's weights, loaded without renaming."""
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.max_seq_len,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
        )
    )
    llama.load_state_dict(model.state_dict(), strict=True)
    return llama.eval()


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_logits_equal_those_of_transformers_llama(config: ModelConfig) -> None:
    model = initialised(config)
    ids = torch.randint(config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model.logits(ids), llama_of(config, model)(ids).logits
    assert theirs.std() > 0.5
    # fp32: different kernels add in different orders; measured 5e-6.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_parameter_names_and_shapes_are_those_of_transformers_llama() -> None:
    model = build_on(torch.device("cpu"), SHAPES["grouped"])
    theirs = llama_of(SHAPES["grouped"], model).named_parameters()
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in theirs}


def test_position_ids_of_the_whole_sample_are_the_default() -> None:
    model = initialised(TINY)
    ids = torch.arange(24).view(2, 12)
    positions = torch.arange(12).expand(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids, positions), model.logits(ids))


def test_the_forward_pass_returns_sums_that_equal_torchs_cross_entropy() -> None:
    model = initialised(TINY)
    ids = torch.randint(TINY.vocab_size, (3, 9), generator=torch.Generator().manual_seed(2))
    inputs, labels = ids[:, :-1], ids[:, 1:].clone()
    labels[1, :5] = -100
    sums = model(inputs, labels)
    losses = torch.nn.functional.cross_entropy(
        model.logits(inputs).transpose(1, 2), labels, reduction="none"
    )
    torch.testing.assert_close(sums.loss_sum, losses.sum())
    torch.testing.assert_close(sums.sample_loss_sums, losses.sum(dim=1))
    assert sums.sample_tokens.tolist() == [8, 3, 8]
    assert sums.loss_sum.requires_grad and not sums.sample_loss_sums.requires_grad


@pytest.mark.parametrize("how", ["bf16 parameters", "autocast"])
def test_under_bf16_the_rotary_tables_stay_fp32_and_logits_stay_near(how: str) -> None:
    model = initialised(SHAPES["heads of 80"])
    ids = torch.randint(131, (2, 64), generator=torch.Generator().manual_seed(1))
    exact = model.logits(ids)
    if how == "bf16 parameters":  # what DeepSpeed does: parameters are cast, buffers are not
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        rounded = model.logits(ids)
        loss = model(ids, ids).loss_sum
    assert rounded.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert model.model.cos.dtype == model.model.sin.dtype == torch.float32
    # bf16 has 8 bits: a few times 2**-8 of the logits' scale, after two layers.
    assert (rounded.float() - exact).abs().max() < 0.1 * exact.std()


class SeenByAttention(TorchFunctionMode):
    """Records the dtypes that scaled_dot_product_attention is called with."""

    dtypes: frozenset[torch.dtype] = frozenset()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.dtypes |= {tensor.dtype for tensor in args[:3]}
        return func(*args, **(kwargs or {}))


def test_attention_gets_queries_and_keys_in_bf16_under_autocast() -> None:
    """The flash kernels take bf16 alone; fp32 tables must not raise what they rotate."""
    model = initialised(TINY)
    with torch.autocast("cpu", torch.bfloat16), SeenByAttention() as seen:
        model.logits(torch.zeros(1, 8, dtype=torch.int64))
    assert seen.dtypes == {torch.bfloat16}


def test_first_weights_depend_on_name_and_seed_alone() -> None:
    name, shape = "model.layers.0.self_attn.q_proj.weight", torch.Size([64, 32])
    first = init_parameter(name, shape, TINY, 7)
    torch.manual_seed(123)  # the global generator has no part in it
    torch.randn(10)
    assert torch.equal(first, init_parameter(name, shape, TINY, 7))
    assert not torch.equal(first, init_parameter(name, shape, TINY, 8))
    other = name.replace("q_proj", "k_proj")
    assert not torch.equal(first, init_parameter(other, shape, TINY, 7))


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("model.embed_tokens.weight", 0.02),
        ("lm_head.weight", 0.02),
        ("model.layers.1.self_attn.v_proj.weight", 0.02),
        ("model.layers.1.mlp.gate_proj.weight", 0.02),
        # divided by sqrt(2 * 24)
        ("model.layers.1.self_attn.o_proj.weight", 0.02 / math.sqrt(48)),
        ("model.layers.1.mlp.down_proj.weight", 0.02 / math.sqrt(48)),
    ],
)
def test_first_weights_have_their_deviation(name: str, std: float) -> None:
    weights = init_parameter(name, torch.Size([512, 512]), ModelConfig(n_layers=24), 1337)
    # Of n normal numbers the deviation is off by std / sqrt(2 n): 0.14 % here. Five of those.
    assert weights.std().item() == pytest.approx(std, rel=0.007)
    assert abs(weights.mean().item()) < 5 * std / 512
    assert weights.dtype == torch.float32


def test_norms_begin_at_1() -> None:
    assert torch.equal(init_parameter("model.norm.weight", torch.Size([5]), TINY, 0), torch.ones(5))


def test_a_built_model_has_left_meta_and_has_the_rotary_tables() -> None:
    model = build_on(torch.device("cpu"), TINY)
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert all(not parameter.any() for parameter in model.parameters())
    # head_dim 8, theta 10,000: frequencies 1, 1/10, 1/100, 1/1000, once for each half.
    angles = [5 * f for f in (1, 0.1, 0.01, 0.001)] * 2
    torch.testing.assert_close(model.model.cos[5], torch.tensor(angles).cos())
    torch.testing.assert_close(model.model.sin[5], torch.tensor(angles).sin())
    assert set(model.state_dict()) == dict(model.named_parameters()).keys()


def test_parameters_are_counted_with_and_without_the_input_embedding() -> None:
    # Layer: 4 * 16^2 attention, 3 * 16 * 24 SwiGLU, 2 * 16 norms = 2,208; head 40 * 16 = 640.
    without_embedding = 2 * 2208 + 16 + 640
    assert count_parameters(TINY) == (without_embedding + 640, without_embedding)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_heads": 3}, "model.n_heads = 3: must split model.d_model = 2048"),
        ({"d_model": 48, "n_heads": 16}, "into heads of even width"),
        ({"n_kv_heads": 3}, "model.n_kv_heads = 3: must divide model.n_heads = 16"),
        ({"n_kv_heads": 0}, "model.n_kv_heads = 0: must be at least 1"),
        ({"n_layers": 0}, "model.n_layers = 0: must be at least 1"),
    ],
)
def test_an_impossible_architecture_is_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**fields)  # pyright: ignore[reportArgumentType]


def test_gradient_checkpointing_changes_no_bit_and_keeps_less() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(TINY.vocab_size, (2, 9), generator=generator)
    gradients, kept = [], []
    for checkpointing in (False, True):
        model = build_on(torch.device("cpu"), TINY, gradient_checkpointing=checkpointing)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(init_parameter(name, parameter.shape, TINY, seed=1))
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(ids[:, :-1], ids[:, 1:]).loss_sum
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        kept.append(sum(sizes))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 2
