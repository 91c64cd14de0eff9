"""Check an exported folder with transformers 4; a script, run in an environment of its own.

usage: python check_export.py FOLDER EXPECTED.json

EXPECTED.json is what our side says of the folder:
  texts       strings
  ids         sentencepiece's ids of each, without <s>
  start       ids that the tokenizer puts first
  input_ids   (T,) ids for the model, and
  logits      (T, V) our fp32 logits; without these two only the tokenizer is checked
  chats       conversations for the chat template: messages, whether to ask for an answer, and
              the ids of training; may be absent
Exits 1 at the first difference.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

# Both sides compute in fp32 with the same weights and sum in different orders.
TOLERANCE = 1e-5


def check_tokenizer(name: str, tokenizer: Any, expected: dict[str, Any]) -> None:
    different = [
        (text, expected["start"] + ids, tokenizer(text).input_ids)
        for text, ids in zip(expected["texts"], expected["ids"], strict=True)
        if tokenizer(text).input_ids != expected["start"] + ids
    ]
    print(f"{name}: {len(different)} of {len(expected['texts'])} texts differ")
    if different:
        text, ours, theirs = different[0]
        sys.exit(f"{name}: {text!r} gives {theirs}, not {ours}")


def check_chats(tokenizer: Any, expected: dict[str, Any]) -> None:
    for chat in expected["chats"]:
        found = tokenizer.apply_chat_template(
            chat["messages"], add_generation_prompt=chat["generate"], tokenize=True
        )
        if list(found) != chat["ids"]:
            sys.exit(f"{chat['messages']} give {found}, not {chat['ids']}")
    print(f"{len(expected['chats'])} chats have the ids of training")


def check_model(folder: str, expected: dict[str, Any]) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32
    )
    input_ids, logits = torch.tensor(expected["input_ids"]), torch.tensor(expected["logits"])
    with torch.no_grad():
        difference = float((model(input_ids=input_ids[None]).logits[0] - logits).abs().max())
    largest = float(logits.abs().max())
    print(f"{type(model).__name__}: logits differ by {difference:.2g} (largest {largest:.2g})")
    if not difference <= TOLERANCE * largest:
        sys.exit(f"logits differ by {difference}, above {TOLERANCE} of {largest}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    generated = model.generate(**tokenizer("def f(", return_tensors="pt"), max_new_tokens=4)
    print(f"generate: {tokenizer.decode(generated[0])!r}")


def main(folder: str, expected_path: str) -> None:
    assert transformers.__version__.startswith("4."), transformers.__version__
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    expected = json.loads(Path(expected_path).read_text())
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    check_tokenizer("AutoTokenizer", fast, expected)
    if "chats" in expected:
        check_chats(fast, expected)
    # What older code calls; in version 4 it is sentencepiece itself.
    slow = transformers.LlamaTokenizer.from_pretrained(folder)
    check_tokenizer("LlamaTokenizer", slow, expected)
    if "logits" in expected:
        check_model(folder, expected)


if __name__ == "__main__":
    main(*sys.argv[1:])
