"""A plan among several makers: joined, refused, or is made again where nothing is lost."""

import fcntl
import os
import shutil
import socket
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import read_json
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.sft.data.plan import sharing
from tests.helpers.sealed import edit_sealed
from tests.sft.helpers.conversations import write_lines
from tests.sft.helpers.preparing import digest, hello, prepare


def test_a_plan_of_which_nothing_came_gives_way_to_another(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    """Finished buckets without a conversation are nothing: of too short rows, of a wrong file."""
    wrong = write_lines(tmp_path / "wrong/b.jsonl", [hello(gpt="")] * 3)
    write_lines(tmp_path / "wrong/a.jsonl", [])
    good, output = write_lines(tmp_path / "good.jsonl", [hello()] * 20), tmp_path / "out"
    with pytest.raises(DataError, match="no conversation is left"):
        prepare(small_tokenizer, wrong.parent, output)
    assert (output / "conversations/00001.json").exists()
    with pytest.raises(DataError, match="20 of 20 records give no conversation"):
        prepare(small_tokenizer, good, output, "--seq_len", "4")
    assert prepare(small_tokenizer, good, output) == 0
    assert not list((output / "conversations").glob("00001.*"))
    assert prepare(small_tokenizer, good, tmp_path / "fresh") == 0
    assert digest(output) == digest(tmp_path / "fresh")


def test_a_dataset_of_text_that_is_being_made_does_not_give_way(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    path, output = write_lines(tmp_path / "a.jsonl", [hello(gpt="")] * 3), tmp_path / "out"
    with pytest.raises(DataError, match="no conversation is left"):
        prepare(small_tokenizer, path, output)
    identity = read_json(output / "plan.json")["identity"]
    del identity["packing"]  # as 'tokenize run' writes it
    edit_sealed(output / "plan.json", identity=identity)
    shutil.rmtree(output / "conversations")
    before = digest(output)
    with pytest.raises(ConfigError, match="Use the same value, or another output folder"):
        prepare(small_tokenizer, path, output)
    assert digest(output) == before


def test_a_plan_that_another_process_works_on_does_not_give_way(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    path, output = write_lines(tmp_path / "a.jsonl", [hello(gpt="")] * 3), tmp_path / "out"
    with pytest.raises(DataError, match="no conversation is left"):
        prepare(small_tokenizer, path, output)
    before = digest(output)
    other = os.open(output, os.O_RDONLY)  # a lock is the open file's, not the process's
    try:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(ConfigError, match=r"seed = 3: .*; another process is making that data"):
            prepare(small_tokenizer, path, output, "--seed", "3")
    finally:
        os.close(other)
    assert digest(output) == before


def test_buckets_of_other_rules_of_reading_are_not_mixed_with_new_ones(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output, more = tmp_path / "out", ("--heldout_share", "0.1")
    shutil.copytree(prepared, output)
    for path in output.glob("conversations/*.json"):  # as the rules before left no version
        receipt = read_sealed_json(path, owner=None)
        assert receipt["counts"].pop("reading_version") == 2
        for reason in ("ambiguous", "media", "weight"):
            del receipt["counts"][f"dropped_{reason}"]
        write_sealed_json(path, receipt)
    before = digest(output)
    assert prepare(small_tokenizer, conversations, output, *more) == 0  # finished: left alone
    assert digest(output) == before
    assert "was made by version 1 of the rules for reading records" in capsys.readouterr().err
    (output / "conversations/00001.json").unlink()
    with pytest.raises(ConfigError) as error:
        prepare(small_tokenizer, conversations, output, *more)
    assert str(error.value) == (
        f"output = {output}: has 2 of its 3 buckets by version 1 of the rules for reading "
        f"records. The version is 2 now: use another output folder, or remove {output}."
    )
    before.pop("conversations/00001.json")
    assert digest(output) == before


def test_a_live_temporary_of_another_maker_is_left_to_it(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(prepared, output)
    (output / "dataset.json").unlink()
    theirs = output / "conversations/00001.bin.tmp.another-host.7.0123abcd"
    ours = output / f"conversations/00001.bin.tmp.{socket.gethostname()}.{os.getpid()}.0123abcd"
    for path in (theirs, ours):
        path.write_bytes(b"half")
    with sharing(output):
        assert prepare(small_tokenizer, conversations, output, "--heldout_share", "0.1") == 0
        assert theirs.exists() and ours.exists()
    (output / "dataset.json").unlink()
    assert prepare(small_tokenizer, conversations, output, "--heldout_share", "0.1") == 0
    assert not theirs.exists() and ours.exists()  # we still live
