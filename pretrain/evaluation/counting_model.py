"""The harness's model, counting what the harness hides of its requests.

The harness cuts a prompt that is too long at its start, takes an empty answer for an answer and a
likelihood that is not a number for a likelihood, and scores all of them as if nothing were wrong.
"""

import math
from collections import Counter
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models import huggingface

from mobilellama.pretrain.evaluation.answer_counts import AnswerCounts, says_nothing

_HFLM: Any = huggingface.HFLM  # typed as Any: a decorator hides its members
_Continuation = tuple[tuple[str, str], list[int], list[int]]
"""The context and the continuation as texts; the ids of each."""
KINDS = ("prompts_cut", "empty", "cut_off", "not_a_number")


class CountingModel(_HFLM):
    """The harness's model, with the counts of its requests since `take_counts` was called."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._requests = 0
        self._bad = Counter[str]()
        self._cut_prompts = set[str]()
        self._is_cut: list[bool] = []
        """Of the batch that is being answered."""

    def take_counts(self) -> AnswerCounts:
        """Return the counts, and begin new ones.

            prompts_cut     the prompt is longer than the context, and has lost its beginning
            empty           nothing was generated
            cut_off         the most tokens came before a stop
            not_a_number    the likelihood is NaN or infinite

        A request is of the first kind that fits.
        """
        bad = {kind: self._bad[kind] for kind in KINDS}
        counts = AnswerCounts(asked=self._requests, bad=bad)
        self._requests, self._bad, self._cut_prompts = 0, Counter(), set()
        return counts

    def _loglikelihood_tokens(
        self, requests: list[_Continuation], *arguments: object, **options: object
    ) -> list[tuple[float, bool]]:
        answers = super()._loglikelihood_tokens(requests, *arguments, **options)
        self._requests += len(requests)
        for (_, context, continuation), (likelihood, _) in zip(requests, answers, strict=True):
            if len(context) + len(continuation) > self.max_length + 1:
                self._bad["prompts_cut"] += 1
            elif not math.isfinite(likelihood):
                self._bad["not_a_number"] += 1
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer prompts, and count the empty answers."""
        answers = super().generate_until(requests, disable_tqdm=disable_tqdm)
        self._requests += len(requests)
        self._bad["empty"] += sum(
            says_nothing(answer) and request.args[0] not in self._cut_prompts
            for request, answer in zip(requests, answers, strict=True)
        )
        return answers

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts, and count those that are cut; the harness tells one a batch at most."""
        self._is_cut = [
            bool(left_truncate_len) and len(self.tok_encode(text)) > left_truncate_len
            for text in strings
        ]
        cut = [text for text, is_cut in zip(strings, self._is_cut, strict=True) if is_cut]
        self._bad["prompts_cut"] += len(cut)
        self._cut_prompts.update(cut)
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **options: object
    ) -> torch.Tensor:
        generated = super()._model_generate(context, max_length, stop, **options)
        for row, is_cut in zip(generated.tolist(), self._is_cut, strict=True):
            ids = row[context.shape[1] :]
            text = str(self.tok_decode(ids, skip_special_tokens=False))
            ended = self.eot_token_id in ids or any(one and one in text for one in stop)
            said = not says_nothing(str(self.tok_decode(ids)))
            if said and not ended and not is_cut:
                self._bad["cut_off"] += 1
        return generated
