"""The decoding loop says what transformers' generate says, and rows do not disturb each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mobilellama.config import UserError
from mobilellama.pretrain.generation.decode import Decoded, choose, decode, gumbel_noise
from mobilellama.pretrain.generation.sampling import Sampling
from tests.sft.helpers.tiny_chat_model import tiny_llama

VOCAB = 96
GREEDY = Sampling()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)  # so small a model gains nothing from more


def tiny_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4
    )
    return GPT2LMHeadModel(config).eval()


def tiny_qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def tiny_mistral() -> Any:
    """Attends to the last 8 positions only: its cache drops older ones."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8, initializer_range=0.4,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


MODELS = {
    "llama": lambda: tiny_llama(VOCAB),
    "gpt2": tiny_gpt2,
    "qwen2": tiny_qwen2,
    "mistral": tiny_mistral,
}


def prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [rng.integers(3, VOCAB, length).tolist() for length in lengths]


def answer(
    model: Any,
    asked: Sequence[Sequence[int]],
    sampling: Sampling = GREEDY,
    *,
    limit: int = 24,
    stops: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    **more: Any,
) -> list[Decoded]:
    return decode(
        model,
        asked,
        sampling=sampling,
        generators=[np.random.default_rng([5, seed]) for seed in seeds or range(len(asked))],
        limits=[limit] * len(asked),
        ended=lambda ids: ids[-1] in stops,
        **more,
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_answers_are_those_of_transformers(name: str, penalty: float) -> None:
    model = MODELS[name]()
    for prompt in prompts(5, 19):
        ours = answer(model, [prompt], Sampling(repetition_penalty=penalty))
        theirs = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False, max_new_tokens=24, repetition_penalty=penalty, eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :]  # fmt: skip
        assert ours == [Decoded(theirs.tolist(), "length")]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(temperature=1.0, top_p=0.9, top_k=20, repetition_penalty=1.2)],
    ids=["greedy", "sampled"],
)
def test_a_batch_answers_as_its_rows_do_alone(name: str, sampling: Sampling) -> None:
    model, asked = MODELS[name](), prompts(1, 30, 7, 2, 16)
    alone = [answer(model, [row], sampling, seeds=[i + 1])[0] for i, row in enumerate(asked)]
    # Stops that end some rows early, so that the batch shrinks while the others go on.
    stops = [alone[0].ids[3], alone[3].ids[10]]
    alone = [
        answer(model, [row], sampling, seeds=[i + 1], stops=stops)[0] for i, row in enumerate(asked)
    ]
    together = answer(model, asked, sampling, seeds=[1, 2, 3, 4, 5], stops=stops)
    assert together == alone
    assert len({len(row.ids) for row in together}) > 1
    shuffled = answer(model, asked[::-1], sampling, seeds=[5, 4, 3, 2, 1], stops=stops)
    assert shuffled == alone[::-1]


def test_a_row_ends_at_its_stop_or_its_own_limit() -> None:
    model = tiny_llama(VOCAB)
    [free] = answer(model, prompts(4), limit=12)
    stop = free.ids[5]
    at = free.ids.index(stop)
    assert answer(model, prompts(4), stops=[stop]) == [Decoded(free.ids[: at + 1], "stop")]
    generators = [np.random.default_rng(0)] * 2
    both = decode(
        model, prompts(4) * 2, sampling=GREEDY, generators=generators, limits=[3, 12],
        ended=lambda ids: False,
    )  # fmt: skip
    assert both == [Decoded(free.ids[:3], "length"), Decoded(free.ids, "length")]


def test_an_interruption_keeps_what_came_so_far() -> None:
    model, came = tiny_llama(VOCAB), []

    def note(row: int, token: int) -> None:
        came.append((row, token))

    two = answer(model, prompts(4, 9), on_token=note, interrupted=lambda: len(came) >= 6, limit=50)
    assert [row.finish for row in two] == ["cut", "cut"]
    assert [len(row.ids) for row in two] == [3, 3]
    assert came == [(row, two[row].ids[i]) for i in range(3) for row in (0, 1)]
    assert answer(model, prompts(4), interrupted=lambda: True) == [Decoded([], "cut")]


def test_the_same_seed_gives_the_same_answer_and_another_gives_another() -> None:
    model, warm = tiny_llama(VOCAB), Sampling(temperature=1.5)
    first, again = (answer(model, prompts(6), warm, seeds=[3]) for _ in range(2))
    assert first == again
    assert first != answer(model, prompts(6), warm, seeds=[4])


def frequencies(**fields: Any) -> list[float]:
    """Return how often each of four tokens is chosen, in 40000 draws."""
    probabilities = torch.tensor([0.3, 0.05, 0.5, 0.15])
    settings: dict[str, Any] = {"temperature": 1.0} | fields
    draws = 40_000
    chosen = choose(
        probabilities.log().expand(draws, 4),
        Sampling(**settings),
        keys=torch.tensor(np.random.default_rng(1).integers(1 << 63, size=draws)),
    )
    return (chosen.bincount(minlength=4) / draws).tolist()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0.3, 0.05, 0.5, 0.15]),
        # .5 alone is below .6, so .3 stays too
        ({"top_p": 0.6}, [0.375, 0, 0.625, 0]),
        ({"top_p": 0.01}, [0, 0, 1, 0]),
        ({"top_k": 3}, [0.3 / 0.95, 0, 0.5 / 0.95, 0.15 / 0.95]),
        # of the two that top_k leaves, .5 makes .625
        ({"top_k": 2, "top_p": 0.6}, [0, 0, 1, 0]),
        # probabilities squared: .09 .0025 .25 .0225, in all .365
        ({"temperature": 0.5}, [0.09 / 0.365, 0.0025 / 0.365, 0.25 / 0.365, 0.0225 / 0.365]),
        ({"temperature": 1e-30}, [0, 0, 1, 0]),
    ],
)
def test_draws_follow_the_distribution(fields: dict[str, Any], expected: list[float]) -> None:
    found = frequencies(**fields)
    # The standard deviation of a share of 40000 draws is at most .0025.
    assert found == pytest.approx(expected, abs=0.01)
    assert [share == 0 for share in found] == [share == 0 for share in expected]


def test_noise_is_gumbels_and_free_of_what_is_near() -> None:
    """Mean .5772, variance pi^2/6; neighbouring rows and tokens have nothing in common."""
    keys = torch.tensor(np.random.default_rng(1).integers(1 << 63, size=1000))
    noise = gumbel_noise(keys, 500)
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.03)
    for one, other in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        pair = torch.stack([one.flatten(), other.flatten()])
        assert abs(torch.corrcoef(pair)[0, 1]) < 0.01
    assert torch.equal(gumbel_noise(keys[7:8], 500)[0], noise[7])


def test_logits_that_are_not_finite_are_an_error_with_a_remedy() -> None:
    model = tiny_llama(VOCAB)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    for sampling in (GREEDY, Sampling(temperature=1.0)):
        with pytest.raises(UserError, match=r"logits are not finite: .*--dtype fp32"):
            answer(model, prompts(4), sampling)


@pytest.mark.parametrize("kind", MODELS)
def test_what_embeds_the_prompts_decides_what_a_place_means(kind: str) -> None:
    """-5 stands for token 7 here: the answers are those of prompts that hold it."""
    model = MODELS[kind]()

    def embed(input_ids: torch.Tensor) -> torch.Tensor:
        return model.get_input_embeddings()(input_ids.masked_fill(input_ids == -5, 7))

    plain = [[9, 7, 7, 11, 30], [8, 40, 7], [12]]
    places = [[-5 if token == 7 else token for token in prompt] for prompt in plain]
    expected = answer(model, plain)
    assert answer(model, places, embed=embed) == expected
    alone = [answer(model, [prompt], embed=embed)[0] for prompt in places]
    assert [one.ids for one in alone] == [one.ids for one in expected]


def test_a_penalty_for_tokens_that_occurred_counts_no_place() -> None:
    """An index below 0 counts from the end: a place -k would penalise token VOCAB - k."""
    model = tiny_llama(VOCAB)

    def embed(input_ids: torch.Tensor) -> torch.Tensor:
        return model.get_input_embeddings()(input_ids.clamp(min=0))

    penalty = Sampling(repetition_penalty=1e6)
    expected = answer(model, [[9, -VOCAB, 11]], penalty, embed=embed)
    for place in range(1, VOCAB + 1):
        assert answer(model, [[9, -place, 11]], penalty, limit=3, embed=embed) == [
            Decoded(expected[0].ids[:3], "length")
        ]
