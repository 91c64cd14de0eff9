"""A corpus tokenised with a tokenizer.json by the real command, and what reads the dataset."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer

from mobilellama.shards.dataset import Plan
from mobilellama.shards.format import read_index
from mobilellama.shards.main import main as shards_main
from mobilellama.shards.permute import Permutation
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.show import describe_sample
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from tests.helpers.changed_sources import run, told
from tests.helpers.corpus_tokenizers import SPELLED, read, write_llama3
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.sealed import edit_sealed
from tests.helpers.text_tables import write_json_lines
from tests.pretrain.helpers.tiny import train_tiny

TEXTS = [text for text in [*SPELLED, *hostile_texts(200)] if text]
SIZE = 66_000
_SLICES = ("--slice_bytes", "8000", "--heldout_share", "0.1")

Digest = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A corpus, a large tokenizer of a chat model, and their dataset, made by one worker."""
    folder = tmp_path_factory.mktemp("other_tokenizers")
    write_json_lines(folder / "corpus/c4/a.jsonl", [*TEXTS, "lone \ud800 surrogate"])
    write_json_lines(folder / "corpus/github/b.jsonl", [*TEXTS[::-1], *TEXTS[::-1]])
    tokenizer = write_llama3(folder / "chat", size=SIZE, eos_token="<|eot_id|>")
    assert run(folder / "corpus", tokenizer, folder / "dataset", *_SLICES) == 0
    return folder / "corpus", tokenizer, folder / "dataset"


@pytest.fixture
def begun(made: tuple[Path, Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """The same, with a copy of the dataset that lacks one bucket."""
    corpus, tokenizer, dataset = made
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    for name in ("dataset.json", "c4/00001.json"):
        (copy / name).unlink()
    return corpus, tokenizer, copy


def test_each_document_has_the_ids_of_transformers_in_int32(
    made: tuple[Path, Path, Path],
) -> None:
    _, tokenizer, folder = made
    dataset = TokenDataset(folder)
    identity = dataset.identity
    theirs: Any = AutoTokenizer.from_pretrained(tokenizer)
    end = theirs.convert_tokens_to_ids("<|end_of_text|>")
    assert (identity.dtype, identity.vocab_size, identity.eos_id) == ("int32", SIZE, end)
    assert end != theirs.eos_token_id, "it ends turns"
    assert identity.tokenizers_version == tokenizers.__version__
    found, expected = [], []
    for slice_ in Plan.read(folder).slices:
        index = read_index(folder / f"{slice_.name}.idx")
        ids = np.fromfile(folder / f"{slice_.name}.bin", "<i4")
        parts = np.split(ids, np.cumsum(index.lengths)[:-1])
        key = (identity.seed, slice_.subset, slice_.bucket)
        order = Permutation(len(parts), *key).inverse(np.arange(len(parts)))
        found += [parts[place].tolist() for place in order]
    for text in [*TEXTS, "lone \ufffd surrogate", *TEXTS[::-1] * 2]:
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True, truncation=False)
        expected.append([*ids.input_ids, end])
    assert found == expected


def test_what_the_folder_holds_opens_as_the_tokenizer(made: tuple[Path, Path, Path]) -> None:
    _, tokenizer, folder = made
    assert not (folder / "tokenizer.model").exists()
    same = [(one / "tokenizer.json").read_bytes() for one in (tokenizer, folder / "tokenizer")]
    assert same[0] == same[1]
    dataset = TokenDataset(folder)
    assert dataset.tokenizer.eos_id == dataset.identity.eos_id
    assert dataset.tokenizer.sha256 == dataset.identity.tokenizer_sha256
    described = {name for name in dataset.described_files if name.startswith("tokenizer/")}
    assert described == {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}


def test_the_dataset_is_audited_verified_described_and_shown(
    made: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, _, folder = made
    audit = ["audit", str(folder), "--sources", str(corpus), "--sample", "9999"]
    assert told(shards_main, audit) == 0
    assert f"{3 * len(TEXTS) + 1:,} documents compared with tokenizers's ids, 0 mismatches" in (
        capsys.readouterr().out
    )
    assert told(shards_main, ["verify", str(folder)]) == 0
    assert told(shards_main, ["info", str(folder), "--seq_len", "64"]) == 0
    assert "66,000 ids, stored as int32" in capsys.readouterr().out
    dataset = TokenDataset(folder)
    tokenizer, view = dataset.tokenizer, dataset.view("c4", 64)
    for sample in range(len(view)):
        described = describe_sample(dataset, view, sample, tokenizer=tokenizer)
        whole = [part.text for part in described.parts if part.last - part.first == part.tokens]
        assert {*whole} <= {*TEXTS, "lone \ufffd surrogate"}
    assert told(shards_main, ["show", str(folder), "--seq_len", "64", "--position", "7"]) == 0
    assert "document " in capsys.readouterr().out


def test_two_workers_and_a_restart_give_the_same_bytes(
    begun: tuple[Path, Path, Path], made: tuple[Path, Path, Path], digest: Digest, tmp_path: Path
) -> None:
    corpus, tokenizer, folder = begun
    killed = folder / f"tokenizer/tokenizer.json.tmp.{os.uname().nodename}.4999999.0123abcd"
    killed.write_bytes(b"{")
    assert run(corpus, tokenizer, folder, *_SLICES) == 0
    assert run(corpus, tokenizer, tmp_path / "new", *_SLICES, "--workers", "2") == 0
    assert digest(folder) == digest(made[2]) == digest(tmp_path / "new")


def test_a_restart_with_what_would_give_other_ids_is_refused_by_name(
    begun: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, tokenizer, folder = begun
    other = Path(shutil.copytree(tokenizer, tmp_path / "other"))
    content = read(other)
    content["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(content))
    ends = HfTokenizer(tokenizer).specials["<|end_of_text|>"].id
    turns = HfTokenizer(tokenizer).eos_id
    begun_with = f"the plan in {folder} was begun with"
    refusals = {
        (other, ()): f"but the plan in {folder} was made with",
        (tokenizer, ("--eos_token", "<|eot_id|>")): f"eos_id = {turns}: {begun_with} eos_id = "
        f"{ends}. Use the same value, or another output folder.",
        (tokenizer, ("--encoder", "sentencepiece")): "encoder = sentencepiece: cannot encode with "
        f"{tokenizer}/tokenizer.json, which is no sentencepiece model. Leave it out.",
    }
    for (given, more), refusal in refusals.items():
        assert run(corpus, given, folder, *_SLICES, *more) == 2
        assert refusal in capsys.readouterr().err
    edit_sealed(folder / "plan.json", lambda plan: plan["identity"].update(tokenizers_version="9"))
    assert run(corpus, tokenizer, folder, *_SLICES) == 2
    err = capsys.readouterr().err
    assert f"{begun_with} tokenizers_version = 9. Install tokenizers==9, or use another" in err


def test_a_changed_tokenizer_in_the_dataset_fails_the_slice_with_the_remedy(
    begun: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, tokenizer, folder = begun
    config = folder / "tokenizer/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": "<|eot_id|>"}))
    assert run(corpus, tokenizer, folder, *_SLICES) == 2
    err = capsys.readouterr().err
    assert f"{config.parent}: names <|eot_id|> as eos_token, but documents end with the id" in err
    shutil.rmtree(config.parent)
    assert run(corpus, tokenizer, folder, *_SLICES) == 0


def test_a_subset_may_not_have_the_name_of_the_tokenizers_folder(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json_lines(tmp_path / "corpus/tokenizer/a.jsonl", ["text"])
    assert run(tmp_path / "corpus", made[1], tmp_path / "out") == 2
    assert "sources = tokenizer: is the name of the tokenizer's folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_trains_on_the_dataset(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    fields = {"model.vocab_size": SIZE, "train.max_steps": 2, "model.d_model": 16}
    assert train_tiny(made[2], tmp_path / "run", fields) == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2
    copied = HfTokenizer(tmp_path / "run/tokenizer")
    assert copied.sha256 == TokenDataset(made[2]).identity.tokenizer_sha256
