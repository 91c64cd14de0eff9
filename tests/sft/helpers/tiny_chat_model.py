"""A chat folder as an export is: a tiny random model with a tokenizer and a chat template."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from mobilellama.tokenizers.tokenizer import Tokenizer

# The vicuna form, in few words: a system text, then USER and ASSISTANT, each answer ends in </s>.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content + ' ' }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ASSISTANT:' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}"
    "{% endif %}{% endfor %}"
)
CONTEXT_TOKENS = 256


def tiny_llama(vocab_size: int, *, seed: int = 0, **fields: Any) -> Any:
    """Return a random LLaMA of two layers, fp32, whose greedy answers vary with the prompt."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT_TOKENS,
        "initializer_range": 0.4,  # wide, or all logits nearly tie
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(config | fields))).eval()


def write_tiny_chat_model(
    folder: Path,
    tokenizer: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Write the folder, with LLaMA's own files beside each other, and return it."""
    spm = Tokenizer(tokenizer)
    tiny_llama(spm.vocab_size, seed=seed, **fields).save_pretrained(folder)
    spm.write_hf(folder, max_length_tokens=CONTEXT_TOKENS, add_bos=True)
    if chat_template:
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text()) | {"chat_template": chat_template}
        path.write_text(json.dumps(config))
    return folder


def copy_chat_model(folder: Path, to: Path, *, without: str | None = None, **changed: Any) -> Path:
    """Copy a chat folder with other fields in tokenizer_config.json."""
    shutil.copytree(folder, to)
    path = to / "tokenizer_config.json"
    config = json.loads(path.read_text()) | changed
    config.pop(without, None)
    path.write_text(json.dumps(config))
    return to


def answers_of_transformers(
    folder: Path, conversations: list[list[dict[str, str]]], *, max_new_tokens: int
) -> list[str]:
    """Return greedy answers, one conversation at a time, by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    answers = []
    for messages in conversations:
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = model.generate(
            **prompt, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0
        )[0, prompt["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip())
    return answers
