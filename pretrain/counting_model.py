"""The harness's model, counting what the harness hides of its requests.

The harness cuts a prompt that is too long at its start, takes an empty answer for an answer and a
likelihood that is not a number for a likelihood, and scores all of them as if nothing were wrong.
"""

import math
from collections import Counter
from typing import Any

import torch
from lm_eval.models import huggingface

from mobilellama.pretrain.answer_counts import AnswerCounts

_HFLM: Any = huggingface.HFLM  # typed as Any: a decorator hides its members
KINDS = ("prompts_cut", "empty", "cut_off", "not_a_number")


class CountingModel(_HFLM):
    """The harness's model, with the counts of its requests since `take_counts` was called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._requests = 0
        self._bad = Counter[str]()

    def take_counts(self) -> AnswerCounts:
        """Return the counts, and begin new ones.

            prompts_cut     the prompt is longer than the context, and has lost its beginning
            empty           nothing was generated
            cut_off         the most tokens came before a stop
            not_a_number    the likelihood is NaN or infinite

        A request is of the first kind that fits; a generated answer whose prompt was cut may be
        of two.
        """
        bad = {kind: self._bad[kind] for kind in KINDS}
        counts = AnswerCounts(asked=self._requests, bad=bad)
        self._requests, self._bad = 0, Counter()
        return counts

    def _loglikelihood_tokens(self, requests: Any, *arguments: Any, **options: Any) -> Any:
        answers = super()._loglikelihood_tokens(requests, *arguments, **options)
        self._requests += len(requests)
        for (_, context, continuation), (likelihood, _) in zip(requests, answers, strict=True):
            if len(context) + len(continuation) > self.max_length + 1:
                self._bad["prompts_cut"] += 1
            elif not math.isfinite(likelihood):
                self._bad["not_a_number"] += 1
        return answers

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Answer prompts, and count the empty answers."""
        answers = super().generate_until(requests, disable_tqdm=disable_tqdm)
        self._requests += len(requests)
        self._bad["empty"] += sum(not answer.strip() for answer in answers)
        return answers

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts, and count those that are cut; the harness tells one a batch at most."""
        if left_truncate_len:
            lengths = (len(self.tok_encode(text)) for text in strings)
            self._bad["prompts_cut"] += sum(length > left_truncate_len for length in lengths)
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)

    def _model_generate(self, context: Any, max_length: int, stop: Any, **options: Any) -> Any:
        generated = super()._model_generate(context, max_length, stop, **options)
        for row in generated.tolist():
            ids = row[context.shape[1] :]
            text = str(self.tok_decode(ids, skip_special_tokens=False))
            ended = self.eot_token_id in ids or any(one and one in text for one in stop)
            said = str(self.tok_decode(ids)).strip()
            if said and not ended:
                self._bad["cut_off"] += 1
        return generated
