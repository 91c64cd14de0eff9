"""Continuing a text: a run, its export and transformers agree; where it ends; what is refused."""

from pathlib import Path

import pytest
import torch

from mobilellama.run_folder import RunFolder
from tests.pretrain.conftest import Command

PROMPT = "def add(a, b):"


@pytest.fixture(scope="module")
def export(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mobilellama.pretrain.hf.export import main
    from mobilellama.pretrain.hf.export_config import Config

    output = tmp_path_factory.mktemp("export") / "model"
    config = Config(checkpoint=str(tiny_run), output=str(output), dtype="fp32", check=False)
    assert main(config) == 0
    return output


def test_a_run_and_its_export_continue_a_prompt_as_transformers_does(
    command: Command, tiny_run: Path, export: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    ids = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        **inputs, max_new_tokens=8, do_sample=False
    )[0]
    assert len(ids) > length
    expected = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    for path in (tiny_run, RunFolder(tiny_run).checkpoint(4), export):
        done = command(
            "pretrain", "generate", "--model", path, "--prompt", PROMPT, "--max_new_tokens", 8
        )
        assert (done.code, done.out) == (0, expected + "\n"), done.err


def test_a_seed_gives_the_same_text_again_and_another_seed_another(
    command: Command, export: Path
) -> None:
    def text(seed: int) -> str:
        done = command(
            "pretrain", "generate", "--model", export, "--prompt", PROMPT, "--seed", seed,
            "--temperature", 1, "--top_p", 0.9, "--max_new_tokens", 16,
        )  # fmt: skip
        assert done.code == 0 and done.out.startswith(PROMPT)
        return done.out

    assert text(1) == text(1) != text(2)


def test_without_a_prompt_a_document_begins_and_the_context_bounds_it(
    command: Command, tiny_run: Path
) -> None:
    done = command("pretrain", "generate", "--model", tiny_run, "--max_new_tokens", 100_000)
    assert (done.code == 0 and "at its limit" in done.err) or "ended the document" in done.err


def test_what_cannot_be_continued_is_refused_by_its_field(
    command: Command, tiny_run: Path, export: Path, tmp_path: Path
) -> None:
    for fields, said in (
        (("--model", tmp_path), "model"),
        (("--model", tmp_path / "none"), "model"),
        (("--model", tiny_run, "--prompt", "word " * 2000), "prompt"),
        (("--model", export, "--tokenizer", "a.model"), "tokenizer"),
        (("--model", export, "--max_new_tokens", 0), "max_new_tokens"),
    ):
        done = command("pretrain", "generate", *fields)
        assert done.code == 2 and f"error: {said} = " in done.err, done.err
