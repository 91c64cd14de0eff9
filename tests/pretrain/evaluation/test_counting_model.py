"""The counts of what the harness hides of its requests."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama.pretrain.evaluation import harness
from mobilellama.pretrain.evaluation.scored_model import load_weights

pytest.importorskip("lm_eval")


def test_the_counting_model_tells_what_the_harness_hides(base: Path) -> None:
    from lm_eval.api.instance import Instance

    tokenizer, add_bos = harness.load_tokenizer(str(base), None)
    lm = harness.counting_model(
        load_weights(str(base), "cpu", "fp32"), tokenizer, add_bos=add_bos, batch_size=4
    )

    def ask(kind: Any, *arguments: tuple[Any, ...]) -> list[Any]:
        requests = [Instance(request_type=kind, doc={}, arguments=its, idx=0) for its in arguments]
        return getattr(lm, kind)(requests, disable_tqdm=True)

    long = "a file of lines " * 400  # of the context's 1024 tokens
    ask("loglikelihood", ("A short", " one"), (long, " one"), (long, " two"), (long, " three"))
    assert lm.take_counts().to_json() == {
        "asked": 4, "prompts_cut": 3, "empty": 0, "cut_off": 0, "not_a_number": 0,
    }  # fmt: skip
    # One batch, of which the harness warns once; a stop that comes at once leaves nothing.
    some = {"until": ["~~~"], "max_gen_toks": 3, "do_sample": False}
    first = ask("generate_until", ("A short", some))[0]
    assert first and lm.take_counts().bad["cut_off"] == 1
    none = some | {"until": [first[0]]}
    said = ask("generate_until", ("A short", none), (long, some), (f"b {long}", some))
    assert said[0] == ""
    counts = lm.take_counts()
    assert all(text.strip() for text in said[1:]), "cut off too, and of one kind all the same"
    assert counts.to_json() == {
        "asked": 3, "prompts_cut": 2, "empty": 1, "cut_off": 0, "not_a_number": 0,
    }  # fmt: skip
    ask("generate_until", (long, some), (f"b {long}", none))
    assert lm.take_counts().share == 1.0, "an answer of two kinds counts once"
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.fill_(float("nan"))
    ask("loglikelihood", ("A short", " one"), (long, " one"))
    assert lm.take_counts().to_json() == {
        "asked": 2, "prompts_cut": 1, "empty": 0, "cut_off": 0, "not_a_number": 1,
    }  # fmt: skip
