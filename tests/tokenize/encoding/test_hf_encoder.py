"""Corpora encoded with tokenizer.json, beside transformers' reading of the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer

from mobilellama.config import DataError
from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.encoding.hf_encoder import HfEncoder, make_encoder, tokenizers_version
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.corpus_tokenizers import (
    LITERATURE,
    SPELLED,
    read,
    write_config,
    write_llama3,
    write_qwen,
)
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.tokenize.encoding.conftest import HOSTILE, random_texts

WRITERS = {"llama3": write_llama3, "qwen": write_qwen}


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("tokenizers") / request.param)


def documents(encoder: HfEncoder, texts: list[str]) -> list[list[int]]:
    """Encode a batch; return the ids of each document, EOS included."""
    ids, lengths = encoder.encode_batch(texts)
    assert int(lengths.sum()) == len(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def test_each_document_has_the_ids_of_transformers_and_eos(folder: Path) -> None:
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    pieces = [*HfTokenizer(folder).specials, *LITERATURE]
    texts = [*HOSTILE, *SPELLED, *hostile_texts(300), *random_texts(pieces, 300, seed=5)]
    found = documents(HfEncoder(HfTokenizer(folder)), texts)
    for text, ids in zip(texts, found, strict=True):
        expected = theirs(
            text, add_special_tokens=False, split_special_tokens=True, truncation=False
        ).input_ids
        assert ids == [*expected, theirs.eos_token_id], text


def test_special_tokens_that_a_text_spells_stay_text(folder: Path) -> None:
    ours = HfTokenizer(folder)
    never = {special.id for special in ours.specials.values() if not special.read_from_text}
    assert len(never) >= 3
    for text in [*SPELLED, *ours.specials, "".join(ours.specials)]:
        (ids,) = documents(HfEncoder(ours), [text])
        assert not never & {*ids[:-1]} and ids[-1] == ours.eos_id
        assert ours.decode(ids).replace("<|fim_prefix|>", "") == text.replace("<|fim_prefix|>", "")


def test_an_end_that_the_file_does_not_mark_special_stays_text_too(tmp_path: Path) -> None:
    folder = write_qwen(tmp_path / "t")
    ours = HfTokenizer(folder, eos_token="<tool_call>")
    (ids,) = documents(HfEncoder(ours), ["a<tool_call>b"])
    assert ours.eos_id not in ids[:-1] and ids[-1] == ours.eos_id
    assert ours.decode(ids) == "a<tool_call>b"
    otherwise = HfTokenizer(folder).encode("a<tool_call>b", begins=True)
    assert ours.eos_id in otherwise, "it is read from text unless it is the end"


def test_a_special_token_that_is_also_a_word_is_refused_not_written(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "t", "byte_level", bos="stop", eos="</s>")
    value = read(folder)
    value["model"]["ignore_merges"] = True  # a word that is a piece gets its id, special or not
    assert "stop" in value["model"]["vocab"]
    ours = HfTokenizer(folder, content=value)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"text was encoded as ids \[\d+\], which are special"):
        HfEncoder(ours).encode_batch(["stop"])
    assert len(documents(HfEncoder(ours), ["nonstop"])) == 1


def test_neither_cut_nor_filled_nor_begun_as_the_file_says(tmp_path: Path) -> None:
    folder = write_llama3(tmp_path / "t")
    value = read(folder)
    assert value["truncation"]["max_length"] == 4 and value["padding"]["strategy"]["Fixed"] == 64
    ours = HfTokenizer(folder)
    long, short = documents(HfEncoder(ours), ["the answer " * 50, "a"])
    assert len(long) > 50 and len(short) == 2
    assert ours.bos_id not in long and ours.decode(long) == "the answer " * 50


def test_the_dtype_grows_with_the_vocabulary(tmp_path: Path) -> None:
    assert HfEncoder(HfTokenizer(write_llama3(tmp_path / "a"))).dtype == np.dtype("<u2")
    ours = HfTokenizer(write_llama3(tmp_path / "b", size=66_000))
    ids, lengths = HfEncoder(ours).encode_batch(["one", "two  three"])
    assert (ours.vocab_size, ids.dtype) == (66_000, np.dtype("<i4"))
    assert lengths.dtype == np.int32


def test_an_empty_batch_and_an_empty_text(folder: Path) -> None:
    encoder = HfEncoder(HfTokenizer(folder))
    ids, lengths = encoder.encode_batch([])
    assert (len(ids), len(lengths)) == (0, 0)
    assert documents(encoder, [""]) == [[encoder.tokenizer.eos_id]]


_COUNT_THREADS = """
import os, sys
from mobilellama.tokenize.encoding.hf_encoder import HfEncoder
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
encoder = HfEncoder(HfTokenizer(sys.argv[1]))
before = len(os.listdir("/proc/self/task"))
encoder.encode_batch(["the answer"] * 1000)
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_the_library_starts_no_threads_whatever_the_environment_says(folder: Path) -> None:
    # in a process of its own: here, the training of a tokenizer has started them
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"}
    command = [sys.executable, "-c", _COUNT_THREADS, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_the_version_is_the_installed_one() -> None:
    assert tokenizers_version() == tokenizers.__version__


def test_each_kind_of_tokenizer_has_its_encoder(folder: Path, small_tokenizer: Path) -> None:
    assert isinstance(make_encoder(HfTokenizer(folder)), HfEncoder)
    assert make_encoder(Tokenizer(small_tokenizer)).tokenizer.vocab_size == 800
    plain = make_encoder(Tokenizer(small_tokenizer), plain=True)
    assert isinstance(plain, Encoder) and not plain.is_fast


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "single_word",
        "lstrip",
        "rstrip",
        "normalized",
        "of the config alone",
    ],
)
def test_each_kind_of_added_token_is_read_from_text_as_transformers_reads_it(
    tmp_path: Path, kind: str, is_special: bool
) -> None:
    """One that is special never is, and one that is not special is a piece of text."""
    folder, token = write_qwen(tmp_path / "t"), "<think>"
    value = read(folder)
    added_id = HfTokenizer(folder).vocab_size
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    flags |= {"special": is_special} | ({kind: True} if kind in flags else {})
    if kind == "of the config alone":  # which may mark a token that tokenizer.json does not
        decoder = {str(added_id): {"content": token} | flags}
        write_config(folder, eos_token="<|endoftext|>", added_tokens_decoder=decoder)
        flags["special"] = False
    value["added_tokens"].append({"id": added_id, "content": token} | flags)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    texts = [
        f"a{token}b", f"a {token} b", f"{token}", f"x  {token}\n\ny {token}{token}",
        f"caf\u00e9 e\u0301{token}e\u0301", token.upper(), token[:-1],
    ]  # fmt: skip
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    found = documents(HfEncoder(HfTokenizer(folder)), texts)
    for text, ids in zip(texts, found, strict=True):
        expected = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids[:-1] == expected, text
    assert any(added_id in ids for ids in found) is not is_special
