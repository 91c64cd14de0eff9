"""transformers' tokenizer of a folder is told the ids that training uses."""

import shutil
from pathlib import Path

import pytest

from mobilellama.tokenizers.exact_tokenizer import load_exact_tokenizer
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.mobilellama.tokenizers.conftest import (
    TEXTS,
    copied,
)


def test_transformers_tokenizer_gets_the_same_ids(
    saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = copied(saved, tmp_path / "base", model=spaces_last)
    first = saved.parent / "first"  # the model alone, which version 5 converts wrongly
    for path in (folder, first):
        exact = load_exact_tokenizer(path)
        model = Tokenizer(spaces_last)
        for text in TEXTS:
            found = exact(text, add_special_tokens=False).input_ids
            assert found == model.encode(text, begins=True)
    exact = load_exact_tokenizer(folder)
    assert (exact.pad_token, exact.pad_token_id, exact.bos_token) == ("[PAD]", 800, "<s>")
    with_bos = load_exact_tokenizer(folder, add_bos_token=True)
    assert with_bos.encode("a")[0] == with_bos.bos_token_id
    assert with_bos.encode("a", add_special_tokens=False)[0] != with_bos.bos_token_id


def test_a_model_beside_added_tokens_alone_gives_its_ids(
    saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    """Folders of transformers 4's slow tokenizers, which hold no tokenizer.json."""
    folder = tmp_path / "slow"
    shutil.copytree(saved.parent / "first", folder)
    (folder / "added_tokens.json").write_text('{"[PAD]": 800}')
    exact, model = load_exact_tokenizer(folder), Tokenizer(spaces_last)
    for text in ("def f(x):\n    return x", "  lead", "a    b"):
        assert exact(text, add_special_tokens=False).input_ids == model.encode(text, begins=True)
    assert exact("a [PAD]", add_special_tokens=False).input_ids[-1] == 800


@pytest.mark.parametrize("writer", ["this project", "transformers 5"])
def test_as_they_are_means_the_same_ids_in_chat_and_in_training(
    writer: str, saved: Path, spaces_last: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    if writer == "transformers 5":
        copied(saved, folder, model=spaces_last)
    else:  # its class makes other merges of it than those that it holds
        folder.mkdir()
        Tokenizer(spaces_last).write_hf(folder, max_length_tokens=64, add_bos=False)
        shutil.copy(saved.parent / "first" / "tokenizer_config.json", folder)
    trained, chat = open_tokenizer(folder, as_is=True), load_exact_tokenizer(folder, as_is=True)
    for text in ("def f(x):\n    return x", "  lead", "a    b"):
        ids = chat(text, add_special_tokens=False).input_ids
        assert ids == trained.encode(text, begins=True)
