"""What we export, read by transformers 4 in an environment of its own.

Not collected by a plain pytest (its name is not test_*.py): run.py calls it. The environment,
made in .venv-transformers4 the first time, is a second installation of torch.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama.pretrain.main import main
from mobilellama.pretrain.model import build_on
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode, encode_prompt
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hostile_texts import hostile_texts

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-transformers4"
TRANSFORMERS = "4.57.6"
PACKAGES = [
    f"transformers=={TRANSFORMERS}",
    "torch==2.13.0",
    "sentencepiece==0.2.3",
    "protobuf",
    "jinja2",
]


@pytest.fixture(scope="session")
def python_with_transformers_4() -> Path:
    """The environment's interpreter; the environment is made if it is missing or another."""
    python = ENVIRONMENT / "bin" / "python"
    look = f"import torch, jinja2, transformers as t; assert t.__version__ == '{TRANSFORMERS}'"
    if not python.exists() or subprocess.run([python, "-c", look], capture_output=True).returncode:
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def check(python: Path, folder: Path, expected: dict[str, Any]) -> None:
    """Run check_export.py; its lines are shown."""
    path = folder.with_suffix(".expected.json")
    path.write_text(json.dumps(expected))
    script = Path(__file__).with_name("check_export.py")
    done = subprocess.run(
        [python, script, folder, path],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
    )
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, done.stderr


def expected_ids(tokenizer: Tokenizer, *, add_bos: bool) -> dict[str, Any]:
    texts = hostile_texts()
    return {
        "texts": texts,
        "ids": tokenizer.processor.encode(texts),
        "start": [tokenizer.bos_id] if add_bos else [],
    }


@pytest.mark.parametrize("add_bos", [False, True])
def test_transformers_4_reads_an_export_as_it_was_trained(
    python_with_transformers_4: Path, tiny_run: Path, tmp_path: Path, add_bos: bool
) -> None:
    folder = tmp_path / "export"
    arguments = ["--checkpoint", str(tiny_run), "--output", str(folder), "--dtype", "fp32"]
    assert main(["export", *arguments, "--add_bos", str(add_bos).lower()]) == 0
    checkpoint = Checkpoint(RunFolder(tiny_run).checkpoint(4))
    model = build_on(torch.device("cpu"), ModelConfig(**checkpoint.manifest.config["model"]))
    input_ids = torch.arange(32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.parameter(name, parameter.shape))
        logits = model.logits(input_ids[None])[0]
    expected = expected_ids(Tokenizer(folder / "tokenizer.model"), add_bos=add_bos)
    expected |= {"input_ids": input_ids.tolist(), "logits": logits.tolist()}
    check(python_with_transformers_4, folder, expected)


def test_transformers_4_reads_llamas_tokenizer_as_sentencepiece_does(
    python_with_transformers_4: Path, llama_tokenizer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    tokenizer = Tokenizer(llama_tokenizer)
    tokenizer.write_hf(folder, max_length_tokens=2048, add_bos=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    check(python_with_transformers_4, folder, expected_ids(tokenizer, add_bos=True))


@pytest.mark.parametrize("name", ["vicuna_v1", "mistral"])
def test_transformers_4_renders_our_chat_templates_to_the_ids_of_training(
    python_with_transformers_4: Path, llama_tokenizer: Path, tmp_path: Path, name: str
) -> None:
    """Those whose special tokens LLaMA's model has."""
    folder = tmp_path / "export"
    folder.mkdir()
    tokenizer, template = Tokenizer(llama_tokenizer), read_template(name)
    tokenizer.write_hf(folder, max_length_tokens=2048, add_bos=True, chat_template=template.jinja())
    (folder / "config.json").write_text('{"model_type": "llama"}')
    words = ["What is  a list?", "A list.\n  - one", "{{ and }} 日本 🙂", " Well: {% raw %}"]
    turns = [Turn("user" if i % 2 == 0 else "assistant", word) for i, word in enumerate(words)]
    chats = [
        {
            "messages": [{"role": turn.role, "content": turn.content} for turn in some],
            "generate": generate,
            "ids": ids.tolist(),
        }
        for some, generate, ids in (
            (turns, False, encode(template, tokenizer, turns).ids),
            (turns[:2], False, encode(template, tokenizer, turns[:2]).ids),
            (turns[:3], True, encode_prompt(template, tokenizer, turns[:3])),
        )
    ]
    expected = expected_ids(tokenizer, add_bos=True) | {"chats": chats}
    check(python_with_transformers_4, folder, expected)
