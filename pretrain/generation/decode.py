"""Decoding: one loop over a model's public forward, for a chat's one prompt and for batches.

1. The prompts are padded on the left; mask and positions leave the padding out.
2. One forward over them fills the key-value cache; each later one feeds a token a row.
3. A row ends at its stop or its limit and leaves the batch, with its part of the cache.

Chance: each row draws one key a token from a generator of its own, and a hash of key and
token gives the Gumbel noise that makes the likeliest token a sample. What is around a row
changes its answer only where batching changes the logits' last bits and two tokens nearly tie:
of fp32's about one token in a million. (A draw from the cumulative distribution would pass
next to one of V edges instead of one: a thousand times as often.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch

from mobilellama.config import UserError
from mobilellama.pretrain.generation.sampling import Sampling

_32_BITS = (1 << 32) - 1
Finish = Literal["stop", "length", "cut"]


@dataclass
class Decoded:
    """What the model said to one prompt."""

    ids: list[int]
    """In order; where ``finish`` is "stop", the last ones are the stop."""
    finish: Finish
    """At a stop, at the row's limit, or cut by an interruption."""


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    generators: Sequence[np.random.Generator],
    limits: Sequence[int],
    ended: Callable[[Sequence[int]], bool],
    embed: Callable[[torch.Tensor], torch.Tensor] | None = None,
    on_token: Callable[[int, int], None] | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> list[Decoded]:
    """Answer prompts together.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        prompts: ids of each, at least one; below 0 only where `embed` knows what they mean.
        sampling: how tokens are chosen.
        generators: of each row; one key a token is drawn, with temperature 0 none.
        limits: most tokens of each answer, at least 1.
        ended: whether a row's answer so far is at its end; asked after each token.
        embed: gives the prompts' embeddings, (B, T, D), of their padded ids, (B, T); None: the
            model's own.
        on_token: told (row, id) as each token comes.
        interrupted: asked before each token; True ends all rows that still run.

    Raises:
        UserError: the logits are not finite, or the model keeps no key-value cache.
    """
    assert prompts and all(prompts) and min(limits) >= 1
    assert embed or min(map(min, prompts)) >= 0
    assert len(prompts) == len(limits) == len(generators)
    answers = [Decoded([], "cut") for _ in prompts]
    rows = list(range(len(prompts)))  # of the batch's slots, as rows leave it
    feed, mask = _pad_left(prompts, model.device)
    seen = None
    more = _more_inputs(model)
    cache = None
    while rows and not (interrupted and interrupted()):
        if "position_ids" in more:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -feed.shape[1] :]
        tokens = {"inputs_embeds": embed(feed)} if embed and cache is None else {"input_ids": feed}
        output = model(**tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        cache = _cache_of(output, model, len(rows))
        keys = None
        if sampling.temperature > 0:
            drawn = [int(generators[row].integers(1 << 63)) for row in rows]
            keys = torch.tensor(drawn, device=feed.device)
        logits = output.logits[:, -1].float()
        if sampling.repetition_penalty != 1 and seen is None:
            seen = _seen(prompts, logits)
        chosen = choose(logits, sampling, keys=keys, seen=seen)
        tokens_of_rows = dict(zip(rows, chosen.tolist(), strict=True))  # host-device sync
        _add(tokens_of_rows, answers, limits, ended, on_token)
        kept = [slot for slot, row in enumerate(rows) if answers[row].finish == "cut"]
        feed = chosen[:, None]
        if seen is not None:
            seen.scatter_(1, feed, True)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        if kept and len(kept) < len(rows):
            slots = torch.tensor(kept, device=feed.device)
            cache.batch_select_indices(slots)
            feed, mask = feed[slots], mask[slots]
            seen = None if seen is None else seen[slots]
        rows = [rows[slot] for slot in kept]
    return answers


def _add(
    tokens: Mapping[int, int],
    answers: Sequence[Decoded],
    limits: Sequence[int],
    ended: Callable[[Sequence[int]], bool],
    on_token: Callable[[int, int], None] | None,
) -> None:
    """Add a token to the answer of each row that has one; note which answers end with it."""
    for row, token in tokens.items():
        if token < 0:
            why = "its weights are damaged, or overflow in this dtype (try --dtype fp32)"
            raise UserError(f"the model's logits are not finite: {why}")
        answers[row].ids.append(token)
        if on_token:
            on_token(row, token)
        if ended(answers[row].ids):
            answers[row].finish = "stop"
        elif len(answers[row].ids) >= limits[row]:
            answers[row].finish = "length"


@contextmanager
def naming_memory(prompts: Sequence[Sequence[int]], device: torch.device) -> Iterator[None]:
    """Raise UserError where the device's memory does not hold prompts that are answered."""
    try:
        yield
    except torch.OutOfMemoryError:
        longest = max(map(len, prompts))
        raise UserError(
            f"{len(prompts)} prompts of up to {longest:,} tokens and their answers do not fit "
            f"into the memory of {device}. Lower --batch_size and run the command again"
        ) from None


def choose(
    logits: torch.Tensor,
    sampling: Sampling,
    *,
    keys: torch.Tensor | None,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Choose each row's next token.

    Args:
        logits: (B, V) fp32.
        sampling: how.
        keys: (B,) int64, random, not negative; None where the temperature is 0.
        seen: (B, V) whether a token occurred; None where there is no penalty.

    Returns:
        (B,) ids; -1 where a row's logits are not finite.
    """
    broken = ~torch.isfinite(logits.amax(-1))  # NaN and +inf pass through a maximum
    if seen is not None:
        penalty = sampling.repetition_penalty
        lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen, lowered, logits)
    if sampling.temperature > 0:
        assert keys is not None
        logits = logits - logits.amax(-1, keepdim=True)  # or a small temperature overflows
        logits = _without_tail(logits / sampling.temperature, sampling)
        logits = logits + gumbel_noise(keys, logits.shape[-1])
    return logits.argmax(-1).masked_fill(broken, -1)


def _without_tail(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return (B, V) logits with -inf where top_k and then top_p leave a token out."""
    if sampling.top_k is None and sampling.top_p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        ordered[:, sampling.top_k :] = -torch.inf
    share = ordered.softmax(-1)
    ordered[share.cumsum(-1) - share >= sampling.top_p] = -torch.inf  # the one reaching it stays
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def gumbel_noise(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return (B, V) fp64 noise, a function of key and token alone, the same on every device.

    The likeliest token after adding it to log probabilities is a sample of them (Gumbel 1954;
    Maddison et al., arXiv:1411.0030, section 2.1).
    """
    tokens = torch.arange(vocab_size, device=keys.device)
    mixed = _mix(_mix(tokens ^ (keys & _32_BITS)[:, None]) ^ (keys >> 32)[:, None])
    return -((mixed.double() + 0.5) / 2**32).log().neg().log()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Permute 32-bit numbers at random: C. Wellons' lowbias32, in int64, which wraps around."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & _32_BITS
    x = (x ^ (x >> 15)) * 0x846CA68B & _32_BITS
    return x ^ (x >> 16)


def _pad_left(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, both (B, longest); the padding's id does not matter."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _seen(prompts: Sequence[Sequence[int]], logits: torch.Tensor) -> torch.Tensor:
    """Return, in the shape of the logits, which tokens each prompt holds.

    Padding is none, and neither are the places of images.
    """
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor([token for token in prompt if token >= 0])] = True
    return seen.to(logits.device)


def _more_inputs(model: Any) -> dict[str, Any]:
    """Return what this model's forward also takes: positions, and only the last logits."""
    known = signature(model.forward).parameters
    wanted = {"position_ids": None, "logits_to_keep": 1}
    return {name: value for name, value in wanted.items() if name in known}


def _cache_of(output: Any, model: Any, rows: int) -> Any:
    cache, name = getattr(output, "past_key_values", None), type(model).__name__
    if cache is None:
        raise UserError(f"{name} keeps no key-value cache, but this command needs one")
    if rows > 1 and not hasattr(cache, "batch_select_indices"):
        kind = type(cache).__name__
        raise UserError(f"{name}'s cache, a {kind}, cannot drop a row. Give --batch_size 1")
    return cache
