"""A random model to score."""

from pathlib import Path

import torch

from mobilellama.tokenizers.tokenizer import Tokenizer


def write_model(folder: Path, tokenizer: Path, *, add_bos: bool) -> Path:
    """Write a random Llama with our tokenizer, long enough for TruthfulQA's prompt."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=800,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.1)
    model.save_pretrained(folder)
    Tokenizer(tokenizer).write_hf(folder, max_length_tokens=1024, add_bos=add_bos)
    return folder
