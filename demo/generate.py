"""Load an exported model with transformers alone and continue a few prompts.

    python demo/generate.py FOLDER

Nothing of this project is imported: this is what a user of the released model does. A base
model was trained on documents ended by EOS, and has never seen BOS: it starts from EOS.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ("def __init__(self, ", "Q: What does json.loads do?\n\nA: ", "The following statement ")


def main() -> None:
    """Print a continuation of each prompt."""
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    torch.manual_seed(0)
    for prompt in PROMPTS:
        ids = [tokenizer.eos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
        made = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=48,
            do_sample=True,
            temperature=0.7,
            top_p=0.95,
            pad_token_id=tokenizer.eos_token_id,
        )
        print("-" * 80)
        print(tokenizer.decode(made[0], skip_special_tokens=True))
    print("-" * 80)


if __name__ == "__main__":
    main()
