"""What the harness measures of a model, on texts of several lengths."""

from contextlib import AbstractContextManager
from typing import Any

from mobilellama.pretrain.evaluation import harness
from mobilellama.pretrain.evaluation.scored_model import ScoredModel

TEXTS = [("def add", " (a, b):"), ("", "A file"), ("One two three", " four five six")]


def likelihoods(model: AbstractContextManager[ScoredModel]) -> list[tuple[float, bool]]:
    """Return the log-likelihood of each text, and whether greedy decoding would write it."""
    from lm_eval.api.instance import Instance

    with model as opened:
        tokenizer, add_bos = harness.load_tokenizer(opened.folder, None)
        lm = harness.counting_model(
            opened.load("cpu", "fp32"), tokenizer, add_bos=add_bos, batch_size=2
        )
        kind: Any = "loglikelihood"
        asked = [Instance(request_type=kind, doc={}, arguments=its, idx=0) for its in TEXTS]
        return lm.loglikelihood(asked, disable_tqdm=True)
