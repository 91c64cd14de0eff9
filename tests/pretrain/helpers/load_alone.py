"""Load exported models as a user without this project does; a script, run in its own process.

usage: python load_alone.py FOLDER_OR_REPOSITORY ... < TEXTS_AS_JSON
Prints {name: {"logits", "ids", "model", "tokenizer", "dtype", "generated"}} as JSON.
"""

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(name: str, texts: list[str]) -> dict[str, object]:
    tokenizer = AutoTokenizer.from_pretrained(name)
    stored = AutoModelForCausalLM.from_pretrained(name)
    # Typed as Any: what generate() asks of its class goes beyond what from_pretrained declares.
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    prompt = tokenizer("def f(", return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=torch.arange(32)[None]).logits[0]
        generated = model.generate(**prompt, max_new_tokens=4)
        unprompted = model.generate(max_new_tokens=1)
    return {
        "model": type(model).__name__,
        "dtype": str(stored.dtype),
        "tokenizer": type(tokenizer).__name__,
        "logits": logits.tolist(),
        "ids": [tokenizer(text).input_ids for text in texts],
        "generated_tokens": generated.shape[1] - prompt.input_ids.shape[1],
        "unprompted_start": int(unprompted[0, 0]),
    }


if __name__ == "__main__":
    texts = json.load(sys.stdin)
    answers = {name: load(name, texts) for name in sys.argv[1:]}
    assert not any(module.startswith("mobilellama") for module in sys.modules)
    print(json.dumps(answers))
