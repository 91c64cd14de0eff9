"""'sft prepare' from end to end: what is in the files, in the report, and after a kill."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.files.atomic import read_json
from mobilellama.sft.data.labels import encode
from mobilellama.sft.data.records import read_turns
from mobilellama.sft.data.template import read_template
from mobilellama.sft.main import main
from mobilellama.shards.main import main as shards_main
from mobilellama.shards.manifest import PackedManifestRow
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.rows import Rows
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.saved_tokenizers import save_again, write_spaces_last
from tests.sft.helpers.conversations import make_conversations, write_lines, write_sharegpt
from tests.sft.helpers.preparing import (
    SEQ_LEN,
    digest,
    expected_parts,
    hello,
    prepare,
    processes_of_group,
    start,
    start_until_a_receipt,
)


def stored(dataset: TokenDataset, split: str) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (ids, mask) of every part of a split, cut at the boundaries of the rows."""
    rows = dataset.view("conversations", SEQ_LEN, split)  # pyright: ignore[reportArgumentType]
    assert isinstance(rows, Rows)
    for i in range(len(rows)):
        assert 0 < len(rows.tokens(i)) <= SEQ_LEN
        cuts = rows.boundaries(i)
        ids, masks = np.split(rows.tokens(i), cuts), np.split(rows.mask(i), cuts)
        for part, mask in zip(ids, masks, strict=True):
            yield part.tolist(), mask.tolist()


def test_every_part_of_every_conversation_is_stored_once_with_its_mask(
    prepared: Path, records: dict[str, list[Any]], small_tokenizer: Path
) -> None:
    dataset = TokenDataset(prepared)
    found = [*stored(dataset, "train"), *stored(dataset, "heldout")]
    expected = [
        part
        for those in records.values()
        for parts in expected_parts(those, small_tokenizer)
        for part in parts
    ]
    assert len(expected) > 200
    assert sorted(found) == sorted(expected)


def test_the_parts_of_a_conversation_are_held_out_together(
    prepared: Path, records: dict[str, list[Any]], small_tokenizer: Path
) -> None:
    dataset = TokenDataset(prepared)
    train, heldout = ([str(part) for part in stored(dataset, s)] for s in ("train", "heldout"))
    sides = {"train": 0, "heldout": 0, "split and held out": 0}
    for those in records.values():
        for parts in expected_parts(those, small_tokenizer):
            in_train, in_heldout = (
                [str(part) in side for part in parts] for side in (train, heldout)
            )
            assert all(in_train) != all(in_heldout)
            assert any(in_train) != any(in_heldout)
            sides["heldout" if all(in_heldout) else "train"] += 1
            sides["split and held out"] += all(in_heldout) and len(parts) > 1
    # 3 files of 58 good records each, a tenth of 174 to the nearest
    assert (sides["train"], sides["heldout"]) == (157, 17)
    assert sides["split and held out"] > 0


def test_the_ids_decode_to_the_templates_text_and_the_mask_to_the_answers(
    tmp_path: Path, llama_tokenizer: Path
) -> None:
    record = {"conversations": [
        {"from": "human", "value": "Hi there"}, {"from": "gpt", "value": "Hello!\nHow are you?"},
        {"from": "human", "value": "Fine </s> you?"}, {"from": "gpt", "value": "Well  enough"},
    ]}  # fmt: skip
    path = write_lines(tmp_path / "a.jsonl", [record])
    assert prepare(llama_tokenizer, path, tmp_path / "out") == 0
    dataset, tokenizer = TokenDataset(tmp_path / "out"), Tokenizer(llama_tokenizer)
    ((ids, mask),) = stored(dataset, "train")
    system = read_template("vicuna_v1").default_system

    def spell(chosen: Sequence[int]) -> str:
        return "".join(tokenizer.processor.id_to_piece(i) for i in chosen).replace("▁", " ")

    # LLaMA's tokenizer begins a text with a space, after </s> too.
    assert spell(ids).replace("<0x0A>", "\n") == (
        f"<s> {system} USER: Hi there ASSISTANT: Hello!\nHow are you?</s>"
        " USER: Fine </s> you? ASSISTANT: Well  enough</s>"
    )
    answers = [i for i, one in zip(ids, mask, strict=True) if one]
    assert spell(answers).replace("<0x0A>", "\n") == " Hello!\nHow are you?</s> Well  enough</s>"
    assert ids.count(tokenizer.eos_id) == 2  # the question's own is text
    turns = read_turns(record)
    assert encode(read_template("vicuna_v1"), tokenizer, turns).ids.tolist() == ids


def test_verify_passes_and_finds_a_flipped_bit_of_each_file(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shards_main(["verify", str(prepared), "--workers", "1"]) == 0
    assert "good" in capsys.readouterr().out
    for ending in ("mask", "bin", "idx"):
        copy = tmp_path / ending
        shutil.copytree(prepared, copy)
        path = copy / f"conversations/00001.{ending}"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(DataError) as error:
            shards_main(["verify", str(copy), "--workers", "1"])
        assert str(error.value).startswith(f"{path}: sha256 ")


def test_the_folder_explains_itself(prepared: Path, small_tokenizer: Path) -> None:
    names = {
        f"conversations/0000{i}.{end}" for i in range(3) for end in ("bin", "idx", "mask", "json")
    }
    names |= {"plan.json", "manifest.parquet", "dataset.json", "report.json"}
    assert set(digest(prepared)) == names | {"tokenizer.model", "template.yaml"}
    assert open_tokenizer(prepared).sha256 == Tokenizer(small_tokenizer).sha256
    assert read_template(prepared / "template.yaml").sha256 == read_template("vicuna_v1").sha256
    rows = TokenDataset(prepared).identity.rows
    assert (rows.seq_len, rows.template) == (SEQ_LEN, "vicuna_v1")
    assert rows.template_sha256 == read_template("vicuna_v1").sha256


def test_the_data_may_lie_elsewhere(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    shutil.copytree(conversations, tmp_path / "moved")
    more = ("--heldout_share", "0.1")
    assert prepare(small_tokenizer, tmp_path / "moved", tmp_path / "out", *more) == 0
    assert digest(tmp_path / "out") == digest(prepared)


def test_what_is_missing_is_made_again_with_the_same_bytes(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    """As a kill leaves it: between two renames, before a receipt, with temporaries beside."""
    output = tmp_path / "out"
    shutil.copytree(prepared, output)
    (output / "dataset.json").unlink()
    (output / "conversations/00001.json").unlink()
    (output / "conversations/00001.mask").unlink()
    mask = output / "conversations/00002.mask"
    mask.write_bytes(mask.read_bytes()[:-1])
    for name in ("conversations/00001.bin", "manifest.parquet", "tokenizer.model"):
        (output / f"{name}.tmp.a.host-7.7.0123abcd").write_bytes(b"half")
    untouched = (output / "conversations/00000.bin").stat().st_mtime_ns
    assert prepare(small_tokenizer, conversations, output, "--heldout_share", "0.1") == 0
    assert digest(output) == digest(prepared)
    assert (output / "conversations/00000.bin").stat().st_mtime_ns == untouched


def test_a_finished_dataset_is_left_alone(
    conversations: Path, prepared: Path, small_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    assert prepare(small_tokenizer, conversations, prepared, "--heldout_share", "0.1") == 0
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == written
    assert TokenDataset(prepared).fingerprint in capsys.readouterr().out


@pytest.mark.slow
def test_kills_change_no_byte_and_leave_no_process(small_tokenizer: Path, tmp_path: Path) -> None:
    data, rng = tmp_path / "data", random.Random(4)
    for seed in range(12):
        write_lines(data / f"{seed:02}.jsonl", make_conversations(60, seed=seed))
    expected = tmp_path / "expected"
    assert prepare(small_tokenizer, data, expected) == 0
    output = tmp_path / "out"
    for kill in range(4):
        process = start(small_tokenizer, data, output, workers=2)
        limit = time.monotonic() + 60
        while len(list(output.glob("*/*.json"))) <= 2 * kill and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)  # its workers live on, for a moment
        process.communicate()
        limit = time.monotonic() + 20
        while processes_of_group(process.pid):
            assert time.monotonic() < limit, "a worker outlived its parent"
            time.sleep(0.05)
    done = start(small_tokenizer, data, output, workers=2)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert digest(output) == digest(expected)


@pytest.mark.slow
def test_ctrl_c_stops_with_a_message_and_without_a_traceback(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    process = start_until_a_receipt(small_tokenizer, tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "of 12 buckets finished; run the same command again to continue" in err


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (("--seq_len", "128"), "seq_len = 128"),
        (("--heldout_share", "0.5"), "heldout_share = 0.5"),
        (("--seed", "3"), "seed = 3"),
        (("--template", "plain"), "template"),
        (("--data.format", "sharegpt"), "data.format = sharegpt"),
    ],
)
def test_another_setting_in_the_same_folder_is_refused_by_name(
    more: tuple[str, ...], field: str, conversations: Path, prepared: Path, small_tokenizer: Path
) -> None:
    before = digest(prepared)
    with pytest.raises(ConfigError) as error:
        prepare(small_tokenizer, conversations, prepared, "--heldout_share", "0.1", *more)
    assert str(error.value).startswith(field)
    assert f": the plan in {prepared} was begun with {error.value.field} = " in str(error.value)
    assert digest(prepared) == before


def test_other_data_or_another_tokenizer_in_the_same_folder_is_refused(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    more = ("--heldout_share", "0.1")
    shutil.copytree(conversations, tmp_path / "data")
    with open(tmp_path / "data/b.jsonl", "a") as file:
        file.write(json.dumps(hello()) + "\n")
    with pytest.raises(ConfigError) as error:
        prepare(small_tokenizer, tmp_path / "data", prepared, *more)
    assert str(error.value).startswith("data.path = b.jsonl: differs from the plan in ")
    (tmp_path / "data/b.jsonl").unlink()
    with pytest.raises(ConfigError) as error:
        prepare(small_tokenizer, tmp_path / "data", prepared, *more)
    assert "data.path = c.jsonl: differs from the plan in" in str(error.value)
    other = tmp_path / "tokenizer.model"
    other.write_bytes(small_tokenizer.read_bytes() + b"\x1a\x00")  # an empty trainer_spec more
    with pytest.raises(ConfigError, match=r"tokenizer = .* has sha256"):
        prepare(other, conversations, prepared, *more)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"holds files \(mine.txt, ...\) but no plan.json"):
        prepare(small_tokenizer, conversations, tmp_path / "full", *more)


def test_data_that_changed_in_place_is_refused_by_the_files_name(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    shutil.copytree(conversations, tmp_path / "data")
    path = tmp_path / "data/b.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-20] + content[-20:].upper())
    before = digest(prepared)
    with pytest.raises(ConfigError) as error:
        prepare(small_tokenizer, tmp_path / "data", prepared, "--heldout_share", "0.1")
    old, new = (hashlib.sha256(text).hexdigest()[:12] for text in (content, path.read_bytes()))
    assert str(error.value) == (
        f"data.path = b.jsonl: has other content of the same size since the plan in "
        f"{prepared} was made: sha256 {new}, which was {old}. Restore the data as it was, or use "
        f"another output folder, or remove {prepared} (3 of its 3 buckets are finished)."
    )
    assert digest(prepared) == before


def test_data_that_changed_after_a_kill_is_not_mixed_with_what_is_finished(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    shutil.copytree(conversations, tmp_path / "data")
    shutil.copytree(prepared, tmp_path / "out")
    (tmp_path / "out/dataset.json").unlink()
    (tmp_path / "out/conversations/00002.json").unlink()
    path = tmp_path / "data/c.jsonl"  # whose bucket is not finished
    path.write_bytes(path.read_bytes().replace(b"e", b"E", 1))
    with pytest.raises(ConfigError, match=r"^data.path = c.jsonl: has other content.*\(2 of its 3"):
        prepare(small_tokenizer, tmp_path / "data", tmp_path / "out", "--heldout_share", "0.1")


def test_the_same_command_works_once_a_truncated_file_is_mended(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    path, records = tmp_path / "a.json", make_conversations(5, scale=0.02)
    path.write_text(json.dumps(records)[:-9])
    with pytest.raises(DataError, match="truncated"):
        prepare(small_tokenizer, path, tmp_path / "out")
    path.write_text(json.dumps(records))
    assert prepare(small_tokenizer, path, tmp_path / "out") == 0
    assert prepare(small_tokenizer, path, tmp_path / "fresh") == 0
    assert digest(tmp_path / "out") == digest(tmp_path / "fresh")


def test_rows_of_no_model_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        prepare(tmp_path / "none.model", tmp_path, tmp_path / "out", "--seq_len", "1000000000")
    assert str(error.value) == (
        "seq_len = 1000000000: must be at most 1,048,576. Give the tokens of a training row."
    )


def test_a_dry_run_reports_on_the_first_thousand_records_and_writes_nothing(
    small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [hello(human=f"Question {i}?", gpt=f"Answer {i}." * (i != 5)) for i in range(700)]
    for name in ("a", "b"):
        write_lines(tmp_path / f"data/{name}.jsonl", many)
    assert prepare(small_tokenizer, tmp_path / "data", tmp_path / "out", "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "records read                  1,000  in 2 sources" in shown
    assert "conversations kept              998" in shown
    assert "dry run: the first 1,000 records, nothing was written" in shown
    assert not (tmp_path / "out").exists()


def test_too_many_bad_records_fail_the_file_with_the_first_places(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    good, bad = [hello()] * 90, [hello(gpt=" ")] * 11
    path = write_lines(tmp_path / "a.jsonl", [*good[:40], *bad, *good[40:]])
    with pytest.raises(DataError) as error:
        prepare(small_tokenizer, path, tmp_path / "out")
    assert str(error.value) == (
        "a.jsonl: 11 of 101 records give no conversation, more than max_bad_share = 0.1 allows "
        "(a.jsonl:41 has an empty answer: turn 1 of 2, beside: Hi; "
        "a.jsonl:42 has an empty answer: turn 1 of 2, beside: Hi; "
        "a.jsonl:43 has an empty answer: turn 1 of 2, beside: Hi). "
        "Fix the file, see --data.format, or raise --max_bad_share"
    )
    assert not list((tmp_path / "out").rglob("*.json*tmp*"))
    assert not list((tmp_path / "out/conversations").iterdir())
    assert prepare(small_tokenizer, path, tmp_path / "out", "--max_bad_share", "0.2") == 0
    assert TokenDataset(tmp_path / "out").totals["conversations"]["bad_records"] == 11


def test_a_few_bad_records_of_every_kind_are_dropped_by_name(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    lines = [
        '{"conversations": [',
        '{"text": "x"}',
        json.dumps(hello(gpt="")),
        json.dumps(hello(human="")),
        '{"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}',
        '{"messages": [{"role": "user", "content": 7}]}',
        '[{"from": "human", "value": "x"}, {"from": "user", "value": "y"}]',
        '[{"from": "human", "value": "x"}]',
        '[{"from": "human", "value": "x"}, {"from": "system", "value": "y"}]',
        json.dumps(hello(human="word " * 2_000)),
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*lines, json.dumps(hello())]))
    assert prepare(small_tokenizer, path, tmp_path / "out") == 0
    report = read_json(tmp_path / "out/report.json")
    assert report["conversations"] == 1
    found = {n: f["examples"][0]["place"] for n, f in report["dropped"].items()}
    assert found == {
        "not_json": "a.jsonl:1", "unknown_shape": "a.jsonl:2", "empty_answer": "a.jsonl:3",
        "empty_question": "a.jsonl:4", "unknown_role": "a.jsonl:5", "not_text": "a.jsonl:6",
        "not_alternating": "a.jsonl:7", "no_exchange": "a.jsonl:8",
        "misplaced_system": "a.jsonl:9", "nothing_supervised": "a.jsonl:10",
    }  # fmt: skip
    assert all(found["count"] == 1 for found in report["dropped"].values())


def test_data_without_one_conversation_is_refused(small_tokenizer: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [hello(gpt="")] * 3)
    with pytest.raises(DataError, match="no conversation is left of 3 records"):
        prepare(small_tokenizer, path, tmp_path / "out")
    assert not (tmp_path / "out/dataset.json").exists()
    empty = write_sharegpt(tmp_path / "b.json", [])
    with pytest.raises(DataError, match="no conversation is left of 0 records"):
        prepare(small_tokenizer, empty, tmp_path / "out_b")


def test_one_file_without_a_conversation_does_no_harm(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    write_lines(tmp_path / "data/a.jsonl", [hello(gpt="")])
    write_lines(tmp_path / "data/b.jsonl", [])
    write_lines(tmp_path / "data/c.jsonl", [hello()] * 2)
    assert prepare(small_tokenizer, tmp_path / "data", tmp_path / "out") == 0
    dataset = TokenDataset(tmp_path / "out")
    manifest = cast(list[PackedManifestRow], dataset.manifest)
    assert [row["rows"] for row in manifest] == [0, 0, 2]
    assert len([*stored(dataset, "train")]) == len([*stored(dataset, "heldout")]) == 1


def test_a_template_that_the_tokenizer_cannot_write_is_refused_at_once(
    conversations: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is not a special token of"):
        prepare(small_tokenizer, conversations, tmp_path / "out", "--template", "chatml")
    assert not (tmp_path / "out").exists()


def test_a_system_text_that_the_template_has_no_place_for_drops_the_record(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    template = tmp_path / "mute.yaml"
    template.write_text(
        "{about: a test, source: a test, bos: true, user: 'Q: {content} ', prompt: 'A:',"
        " assistant: ' {content}', end: '</s>', between: '', specials: ['</s>'], stop: []}"
    )
    spoken = {"messages": [{"role": "system", "content": "Be kind."},
                           {"role": "user", "content": "Hi"},
                           {"role": "assistant", "content": "Hello!"}]}  # fmt: skip
    path = write_lines(tmp_path / "a.jsonl", [hello(), spoken])
    assert prepare(small_tokenizer, path, tmp_path / "out", "--template", str(template)) == 0
    dropped = read_json(tmp_path / "out/report.json")["dropped"]
    assert dropped["unplaced_system"]["examples"] == [{"place": "a.jsonl:2", "detail": "Be kind."}]


def test_a_full_disk_is_named_and_leaves_nothing_that_counts(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    output, more = tmp_path / "out", ("--heldout_share", "0.1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, before[1]))
    try:
        with pytest.raises(UserError) as error:
            prepare(small_tokenizer, conversations, output, *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).startswith(f"{output}/conversations/00000.bin: the disk is full (")
    assert list((output / "conversations").iterdir()) == []
    assert prepare(small_tokenizer, conversations, output, *more) == 0
    assert digest(output) == digest(prepared)


def test_nothing_is_held_out_where_the_share_is_0(
    conversations: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert prepare(small_tokenizer, conversations, output, "--heldout_share", "0") == 0
    assert len(TokenDataset(output).view("conversations", SEQ_LEN, "heldout")) == 0


def test_the_seed_chooses_who_is_held_out(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    more = ("--heldout_share", "0.1", "--seed", "5")
    assert prepare(small_tokenizer, conversations, tmp_path / "out", *more) == 0
    one, other = TokenDataset(prepared), TokenDataset(tmp_path / "out")
    assert sorted(stored(one, "heldout")) != sorted(stored(other, "heldout"))
    everything = [[*stored(d, "train"), *stored(d, "heldout")] for d in (one, other)]
    assert sorted(everything[0]) == sorted(everything[1])


def shown_rows(tokenizer: Path, record: Any, tmp_path: Path) -> list[tuple[str, str]]:
    """Return (text, what of it is supervised) of the parts that are made of a record."""
    path = write_lines(tmp_path / "one.jsonl", [record])
    assert prepare(tokenizer, path, tmp_path / "one", "--heldout_share", "0") == 0
    pieces = Tokenizer(tokenizer).processor.id_to_piece

    def spell(chosen: Sequence[int]) -> str:
        return "".join(map(pieces, chosen)).replace("▁", " ").replace("<0x0A>", "\n")

    return [
        (spell(ids), spell([i for i, one in zip(ids, mask, strict=True) if one]))
        for ids, mask in stored(TokenDataset(tmp_path / "one"), "train")
    ]


def test_rounds_of_a_history_stand_before_the_question_and_are_learnt(
    llama_tokenizer: Path, tmp_path: Path
) -> None:
    record = {
        "instruction": "And the one beside it?", "input": "", "output": "It is red.",
        "system": "You look after lamps.",
        "history": [["What colour is it?", "Green."], ["Are you sure?", "Yes."]],
    }  # fmt: skip
    assert shown_rows(llama_tokenizer, record, tmp_path) == [
        (
            "<s> You look after lamps. USER: What colour is it? ASSISTANT: Green.</s>"
            " USER: Are you sure? ASSISTANT: Yes.</s>"
            " USER: And the one beside it? ASSISTANT: It is red.</s>",
            " Green.</s> Yes.</s> It is red.</s>",
        )
    ]


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": "0.0"}])
def test_an_answer_that_is_not_to_be_learnt_stands_in_the_row_without_marks(
    llama_tokenizer: Path, tmp_path: Path, mark: dict[str, Any]
) -> None:
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Wrong.", **mark},
        {"role": "user", "content": "Look again."},
        {"role": "assistant", "content": "Right.", "weight": 1},
    ]
    text = "<s> S USER: Hi ASSISTANT: Wrong.</s> USER: Look again. ASSISTANT: Right.</s>"
    expected = [(text, " Right.</s>")]
    assert shown_rows(llama_tokenizer, {"messages": turns}, tmp_path) == expected


def test_an_empty_instruction_leaves_the_input_alone(llama_tokenizer: Path, tmp_path: Path) -> None:
    record = {"instruction": "", "input": "What?", "output": "That.", "system": "S"}
    expected = [("<s> S USER: What? ASSISTANT: That.</s>", " That.</s>")]
    assert shown_rows(llama_tokenizer, record, tmp_path) == expected


def test_fields_that_are_not_read_are_told_once_with_their_records(
    small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        records = [hello() | {"id": i, "mood": "merry", "aim": i or None} for i in range(4)]
        write_lines(tmp_path / f"data/{name}.jsonl", [*records, hello(gpt="") | {"mood": "sad"}])
    assert prepare(small_tokenizer, tmp_path / "data", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "fields not read                   2  by name, with the records that have them" in shown
    assert "  not read                        8  mood\n" in shown
    assert "  not read                        6  aim\n" in shown
    assert read_json(tmp_path / "out/report.json")["unread_fields"] == {"mood": 8, "aim": 6}
    assert prepare(small_tokenizer, tmp_path / "data", tmp_path / "out") == 0  # of the receipts
    assert "  not read                        8  mood\n" in capsys.readouterr().out


def test_records_that_mean_something_else_are_dropped_by_name_of_shape_and_table(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    odd = {
        "preference": {"rejected": "No."},
        "reasoning": {"reasoning_content": "Well..."},
        "tool_call": {"tools": [{"name": "f"}]},
        "media": {"image": "a.png"},
        "media ": {"conversations": hello(human="<image>\nWhat?")["conversations"]},
        "weight": {"weight": 0.5},
        "ambiguous": {"prompt": "Another question"},
    }
    for reason, fields in odd.items():
        rows = [hello(), hello(), hello() | fields]
        reason = reason.strip()
        write_lines(tmp_path / f"{reason}/a.jsonl", rows)
        pq.write_table(pa.Table.from_pylist([*rows[2:], *rows]), tmp_path / reason / "b.parquet")
        output = tmp_path / f"out-{'-'.join(fields)}"
        assert prepare(small_tokenizer, tmp_path / reason, output) == 0
        report = read_json(output / "report.json")
        assert (report["records"], report["conversations"]) == (7, 4)
        assert {name: found["count"] for name, found in report["dropped"].items()} == {reason: 3}


def test_two_processes_on_one_output_both_end_well_and_say_that_they_are_two(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for i in range(3):
        write_lines(data / f"{i}.jsonl", make_conversations(i + 40, scale=0.02))
    both = [start(small_tokenizer, data, tmp_path / "out", 1) for _ in range(2)]
    done = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], done
    assert any("another process is making" in err for _, err in done)
    alone = start(small_tokenizer, data, tmp_path / "alone", 1)
    _, err = alone.communicate(timeout=240)
    assert alone.returncode == 0 and "another process" not in err
    fingerprints = {TokenDataset(tmp_path / name).fingerprint for name in ("out", "alone")}
    assert len(fingerprints) == 1
    assert not list((tmp_path / "out").rglob("*.tmp.*"))


def test_ids_that_transformers_5_saved_make_another_dataset_than_the_models(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    """tokenizer_as_is is part of the identity, by the sha256 of what gives the ids."""
    model = write_spaces_last(small_tokenizer, tmp_path / "x.model")
    base = save_again(model, tmp_path / "saved")
    shutil.copy(model, base / "tokenizer.model")
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "def f():\n    return x"}]
    data = tmp_path / "chats.json"
    data.write_text(json.dumps([{"conversations": turns}] * 4))
    prepare = ["prepare", "--data.path", str(data), "--heldout_share", "0", "--seq_len", "256"]
    prepare += ["--workers", "1", "--tokenizer"]
    right, as_is = tmp_path / "right", tmp_path / "as_is"
    assert main([*prepare, str(base), "--output", str(right)]) == 0
    own = ["--tokenizer_as_is", "true"]
    assert main([*prepare, str(base), *own, "--output", str(as_is)]) == 0
    text = "def f():\n    return x"
    ids = [TokenDataset(path).tokenizer.encode(text, begins=True) for path in (right, as_is)]
    assert ids[0] == Tokenizer(model).encode(text, begins=True) != ids[1]
    described = [json.loads((path / "dataset.json").read_text()) for path in (right, as_is)]
    shas = [one["identity"]["tokenizer_sha256"] for one in described]
    assert shas[0] != shas[1] == hashlib.sha256((base / "tokenizer.json").read_bytes()).hexdigest()
    assert described[0]["fingerprint"] != described[1]["fingerprint"]
    (base / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="may have learnt either"):
        main([*prepare, str(base), "--output", str(tmp_path / "other")])
