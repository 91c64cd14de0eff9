"""'sft run': every row once an epoch, resumed bit for bit, all weights or LoRA, from any start."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mobilellama.config import ConfigError, UserError
from mobilellama.pretrain.data import MixedBatches, Sample
from mobilellama.pretrain.main import main as pretrain_main
from mobilellama.pretrain.state import rng
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.frozen import FrozenError
from mobilellama.pretrain.state.manifest import read_manifest
from mobilellama.run_folder import RunFolder
from mobilellama.sft.main import main as sft_main
from mobilellama.sft.row_inputs import RowInputs
from mobilellama.sft.start import open_start
from mobilellama.shards.manifest import PackedManifestRow
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.ranks import Ranks, run_ranks
from tests.pretrain.helpers.running import contents, steps_done
from tests.pretrain.helpers.stopped import cut_back, losses_of, state_of
from tests.pretrain.helpers.tiny import train_tiny
from tests.pretrain.state.test_checkpoint import wait_for
from tests.sft.helpers.conversations import make_conversations, write_sharegpt
from tests.sft.helpers.tiny_sft import finetune_tiny, prepare_tiny

pytestmark = pytest.mark.slow  # each trains, in processes of its own

LORA: dict[str, Any] = {"lora.rank": 4, "lora.alpha": 8, "lora.dropout": 0.1}
EPOCHS: dict[str, Any] = {"train.max_steps": None, "train.epochs": 2}


@pytest.fixture(scope="module")
def chats(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of rows of 128 tokens whose number is no multiple of the batch, 4."""
    folder = tmp_path_factory.mktemp("chats")
    data = write_sharegpt(folder / "small.json", make_conversations(40, scale=0.05))
    fields = {"data.path": data, "template": "plain"}
    dataset = prepare_tiny(folder, small_tokenizer, **fields)
    assert rows_of(dataset) % 4 and 10 < rows_of(dataset) < 40
    return dataset


@pytest.fixture(scope="module")
def base(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a random model."""
    folder = tmp_path_factory.mktemp("base") / "hf"
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=800, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    Tokenizer(small_tokenizer).write_hf(folder, max_length_tokens=128, add_bos=True)
    return folder


def rows_of(dataset: Path) -> int:
    manifest = cast(list[PackedManifestRow], TokenDataset(dataset).manifest)
    return sum(row["train_rows"] for row in manifest)


class Noted(RowInputs):
    """Notes every sample that is asked for."""

    def __init__(self) -> None:
        super().__init__(seq_len=128, pad_id=0)
        self.seen: list[int | None] = []

    def stack(self, samples: Any) -> dict[str, torch.Tensor]:
        self.seen += [None if sample is None else sample[1] for sample in samples]
        return super().stack(samples)


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_row_is_seen_once_an_epoch_and_the_last_step_is_short(
    chats: Path, world_size: int
) -> None:
    mixture, views = open_order(TokenDataset(chats), seq_len=128, mixture=None, seed=5)
    rows, epochs = rows_of(chats), 3
    ranks = [Noted() for _ in range(world_size)]
    readers = [
        MixedBatches(
            mixture, views, noted, global_batch_size=4, micro_batch_size=2, rank=rank,
            world_size=world_size, end=epochs * rows,
        )
        for rank, noted in enumerate(ranks)
    ]  # fmt: skip
    position, order = 0, []
    while position < epochs * rows:
        steps = [reader.at(position) for reader in readers]
        order += [sample for noted in ranks for sample in noted.seen[-4 // world_size :]]
        assert len({(step.num_samples, step.supervised_tokens) for step in steps}) == 1
        labels = [micro.inputs["labels"] for step in steps for micro in step.micro_batches]
        assert steps[0].supervised_tokens == sum(int((part != -100).sum()) for part in labels)
        position += steps[0].num_samples
    assert position == epochs * rows
    missing = -epochs * rows % 4
    assert missing and order[len(order) - missing :] == [None] * missing
    seen = order[: len(order) - missing]
    for epoch in range(epochs):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert seen[:rows] != seen[rows : 2 * rows]  # in another order


def test_a_step_after_the_end_is_empty(chats: Path) -> None:
    """The prefetcher reads ahead of the last step."""
    mixture, views = open_order(TokenDataset(chats), seq_len=128, mixture=None, seed=5)
    samples: list[Sample] = [None] * 2
    reader = MixedBatches(
        mixture, views, RowInputs(seq_len=128, pad_id=0), global_batch_size=2,
        micro_batch_size=2, rank=0, world_size=1, end=6,
    )  # fmt: skip
    step = reader.at(6)
    assert (step.num_samples, step.supervised_tokens) == (0, 0)
    expected = RowInputs(seq_len=128, pad_id=0).stack(samples)["labels"]
    assert torch.equal(step.micro_batches[0].inputs["labels"], expected)


ENGINES = [
    pytest.param({"engine.kind": "deepspeed", "engine.precision": "bf16"}, id="zero1-bf16"),
    pytest.param(
        # Two micro-batches a step.
        {"engine.zero_stage": 2, "engine.precision": "bf16", "train.micro_batch_size": 1} | LORA,
        id="zero2-bf16-lora",
    ),
    pytest.param({"engine.kind": "ddp", "engine.precision": "fp32"} | LORA, id="ddp-fp32-lora"),
    pytest.param(
        {"engine.zero_stage": 2, "engine.precision": "fp32", "optimizer.kind": "lion"} | LORA,
        id="zero2-fp32-lora-lion",
    ),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_resumed_in_mid_epoch_equals_one_that_never_stopped_bit_for_bit(
    base: Path, chats: Path, tmp_path: Path, engine: dict[str, Any]
) -> None:
    fields = engine | EPOCHS | {"checkpoint.every_steps": 5, "validation.at_start": True}
    whole, steps = tmp_path / "whole", -(-2 * rows_of(chats) // 4)
    gone = shutil.copytree(base, tmp_path / "base")
    run_ranks(finetune_tiny, 2, gone, chats, whole, fields)
    resumed = cut_back(whole, tmp_path / "resumed", step=5)
    shutil.rmtree(gone)  # a resume does not need what the run started from
    run_ranks(finetune_tiny, 2, gone, chats, resumed, fields)

    assert RunFolder(whole).read_verdict() is not None
    trained = {folder: moments_of(folder, steps) for folder in (whole, resumed)}
    assert trained[whole].keys() == trained[resumed].keys()
    assert all(torch.equal(trained[whole][n], trained[resumed][n]) for n in trained[whole])
    assert losses_of(whole) == losses_of(resumed)
    assert sorted(losses_of(whole)) == list(range(steps + 1))  # 0 is the validation at the start
    last = losses_of(whole)[steps]
    assert last["consumed"] == 2 * rows_of(chats)
    assert last["validation_loss"] < losses_of(whole)[0]["validation_loss"]


def moments_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every trained parameter's weight and moments; every frozen one's weight."""
    checkpoint = Checkpoint(RunFolder(run).checkpoint(step))
    if checkpoint.manifest.frozen_sha256 is None:
        return state_of(run, step)
    state = {}
    for name in checkpoint.names():
        kinds = checkpoint.kinds if ".lora_" in name else ("weight",)
        shape = torch.Size([checkpoint.numel(name)])
        state |= {f"{name}:{kind}": checkpoint.parameter(name, shape, kind) for kind in kinds}
    return state


def test_another_number_of_ranks_sees_the_same_rows(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    fields = LORA | {"lora.dropout": 0.0, "checkpoint.every_steps": 2}
    alone = tmp_path / "alone"
    run_ranks(finetune_tiny, 1, base, chats, alone, fields)
    on_two = cut_back(alone, tmp_path / "on_two", step=2)
    run_ranks(finetune_tiny, 2, base, chats, on_two, fields)
    expected, got = losses_of(alone), losses_of(on_two)
    assert sorted(got) == sorted(expected) == [1, 2, 3, 4]
    for step, record in expected.items():
        assert got[step]["consumed"] == record["consumed"]
        assert got[step]["loss"] == pytest.approx(record["loss"], rel=1e-5)


def test_lora_trains_its_adapters_alone_and_writes_the_base_once(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_ranks(finetune_tiny, 1, base, chats, run, LORA | {"checkpoint.every_steps": 2})
    folder = RunFolder(run)
    manifests = [read_manifest(folder.checkpoint(step)) for step in (2, 4)]
    (frozen,) = folder.frozen.iterdir()
    assert {m.frozen_sha256 for m in manifests} == {frozen.stem}
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = dict(model.named_parameters())
    before, after = (Checkpoint(folder.checkpoint(step)) for step in (2, 4))
    adapters = [name for name in after.names() if ".lora_" in name]
    assert len(adapters) == 2 * 7 * 2  # A and B of seven linears in two layers
    for name in after.names():
        shape = torch.Size([after.numel(name)])
        value = after.parameter(name, shape)
        if name in adapters:
            assert not torch.equal(value, before.parameter(name, shape)), name
        else:
            assert torch.equal(value, plain[name.replace(".base_layer", "")].flatten()), name
    assert {n.replace(".base_layer", "") for n in after.names()} - {*adapters} == plain.keys()


def test_a_run_starts_from_bin_files_a_pretrained_run_and_another_sft_run(
    base: Path, chats: Path, tmp_path: Path, small_dataset: Path
) -> None:
    """The first loss tells the start: that of the base, whatever the base is written in."""
    fields = {"train.max_steps": 1, "validation.at_start": True}
    binary = shutil.copytree(base, tmp_path / "bin")
    weights = LlamaForCausalLM.from_pretrained(base).state_dict()
    stray = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    torch.save(weights | stray, binary / "pytorch_model.bin")
    (binary / "model.safetensors").unlink()
    pretrained = tmp_path / "pretrained"
    run_ranks(
        train_tiny, 1, small_dataset, pretrained,
        {"model.max_seq_len": 128, "train.max_steps": 1, "validation.every_steps": None},
    )  # fmt: skip
    lora = tmp_path / "lora"
    run_ranks(finetune_tiny, 1, base, chats, lora, LORA | {"lora.dropout": 0.0})
    starts = {}
    for name, init in {"hf": base, "bin": binary, "run": pretrained, "sft": lora}.items():
        run = tmp_path / f"from_{name}"
        run_ranks(finetune_tiny, 1, init, chats, run, fields)
        starts[name] = losses_of(run)[0]["validation_loss"]
    assert starts["bin"] == starts["hf"]
    assert starts["run"] != starts["hf"]
    # An SFT run with adapters is gone on from as its merged model.
    assert starts["sft"] == pytest.approx(losses_of(lora)[4]["validation_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora.rank": 8}, r"lora.rank = 8: .*step-4 was made with 4"),
        (
            {"lora.rank": None, "lora.alpha": 256, "lora.dropout": 0.05},
            r"lora.rank = null: .*step-4 was made with 4",
        ),
        ({"data.seed": 3}, r"data.seed = 3: .* was made with 1337"),
    ],
)
def test_what_defines_a_run_may_not_change(
    change: dict[str, Any], message: str, base: Path, chats: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_ranks(finetune_tiny, 1, base, chats, run, LORA)
    with pytest.raises(AssertionError, match=message):
        run_ranks(finetune_tiny, 1, base, chats, run, LORA | change)


def test_more_epochs_go_on_where_the_short_last_step_ended(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_ranks(finetune_tiny, 1, base, chats, run, EPOCHS | {"train.epochs": 1})
    run_ranks(finetune_tiny, 1, base, chats, run, EPOCHS | {"train.epochs": 2})
    rows = rows_of(chats)
    records = losses_of(run)
    first = -(-rows // 4)
    assert records[first]["consumed"] == rows
    assert records[max(records)]["consumed"] == 2 * rows
    assert max(records) == first + first
    files = contents(run)
    for fields, message in (
        (
            EPOCHS | {"train.epochs": 1},
            rf"train.epochs = 1.0: the run is beyond them already, at step {max(records)} ",
        ),
        ({"train.max_steps": 1}, r"train.max_steps = 1: the run is at step"),
    ):
        with pytest.raises(ConfigError, match=message):
            finetune_tiny(base, chats, run, fields)
        assert contents(run) == files
    verdict = RunFolder(run).read_verdict()
    assert verdict is not None and (verdict.kind, verdict.attempt) == ("finished", 2)


def test_a_missing_frozen_file_stops_the_run_with_its_name(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_ranks(finetune_tiny, 1, base, chats, run, LORA | {"train.max_steps": 1})
    (frozen,) = RunFolder(run).frozen.iterdir()
    frozen.rename(tmp_path / "elsewhere")
    with pytest.raises(
        FrozenError, match=rf"{frozen.name}: missing; the run's checkpoints need it"
    ):
        Checkpoint(RunFolder(run).checkpoint(1))
    with pytest.raises(AssertionError, match=f"{frozen.name}: missing"):
        run_ranks(finetune_tiny, 1, base, chats, run, LORA)
    assert RunFolder(run).checkpoint_steps() == [1]  # the checkpoint itself is not set aside


def test_starts_that_cannot_be_are_refused_by_name(
    base: Path, chats: Path, tmp_path: Path, small_dataset: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    for init, message in (
        (tmp_path / "none", r"init = .*none: is not a folder\. Give a language model: a Hugging"),
        (chats, r"init = .*: is neither a checkpoint nor a run's folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_start(str(init), run)
    with pytest.raises(ConfigError, match=r"holds plain text, not conversations"):
        finetune_tiny(base, small_dataset, tmp_path / "run")
    short = shutil.copytree(base, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    with pytest.raises(ConfigError, match=r"64 positions: is too short for the dataset's rows"):
        finetune_tiny(short, chats, tmp_path / "run")


def test_a_model_with_another_tokenizer_than_the_datasets_is_refused(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    proto = Tokenizer(other / "tokenizer.model").proto
    proto.pieces[700].piece = "somethingelse"
    (other / "tokenizer.json").unlink()
    (other / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(ConfigError, match=r"was prepared with another tokenizer than .*other"):
        finetune_tiny(other, chats, tmp_path / "run")


def test_a_pretraining_runs_folder_is_not_trained_in(
    base: Path, chats: Path, tmp_path: Path, small_dataset: Path
) -> None:
    run = tmp_path / "run"
    run_ranks(train_tiny, 1, small_dataset, run, {"train.max_steps": 1})
    with pytest.raises(ConfigError, match=r"run.folder = .* was written by 'mobilellama pretrain"):
        finetune_tiny(base, chats, run)


def test_a_damaged_start_stops_every_rank(chats: Path, tmp_path: Path, small_dataset: Path) -> None:
    start = tmp_path / "start"
    fields = {"model.max_seq_len": 128, "train.max_steps": 1, "validation.every_steps": None}
    run_ranks(train_tiny, 2, small_dataset, start, fields)
    weights = RunFolder(start).checkpoint(1) / "rank-1.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    ranks = Ranks(finetune_tiny, 2, start, chats, tmp_path / "run", {})
    answers = [answer_of(ranks, rank) for rank in range(2)]
    assert "OtherRankError" in answers[0] and "another rank found it damaged" in answers[0]
    assert "its sha256 is not the one in its receipt" in answers[1]
    verdict = RunFolder(tmp_path / "run").read_verdict()
    assert verdict is not None and verdict.kind == "failed"


def answer_of(ranks: Ranks, rank: int) -> str:
    with pytest.raises(AssertionError) as caught:
        ranks._result(rank)
    return str(caught.value)


def test_another_start_is_refused_on_a_resume_and_the_first_one_kept_on_record(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    run, gone = tmp_path / "run", tmp_path / "gone"
    shutil.copytree(base, gone)
    run_ranks(finetune_tiny, 1, gone, chats, run, {"train.max_steps": 1})
    other = shutil.copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    with pytest.raises(ConfigError, match=rf"init = {other}: is not what the run began with"):
        finetune_tiny(other, chats, run)
    shutil.rmtree(gone)
    run_ranks(finetune_tiny, 1, tmp_path / "nowhere", chats, run, {"train.max_steps": 2})
    manifest = read_manifest(RunFolder(run).checkpoint(2))
    assert dict(manifest.config)["init"] == str(gone)


def test_replay_shows_the_rows_of_a_step_the_short_one_too(
    base: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = tmp_path / "run", rows_of(chats)
    run_ranks(finetune_tiny, 1, base, chats, run, EPOCHS | {"train.epochs": 1})
    run_ranks(finetune_tiny, 1, base, chats, run, EPOCHS)
    short = -(-rows // 4)
    assert pretrain_main(["replay", "--run", str(run), "--step", str(short)]) == 0
    out = capsys.readouterr().out
    assert out.count("position ") == rows % 4
    assert pretrain_main(["replay", "--run", str(run), "--step", str(short + 1)]) == 0
    out = capsys.readouterr().out
    assert f"step {short + 1}, position {rows}, epoch 1 of conversations" in out
    dataset = TokenDataset(chats)
    mixture, views = open_order(dataset, seq_len=128, mixture=None, seed=1337)
    sample = int(mixture.locate(rows).sample)
    span = views["conversations"].span(sample)
    assert f"sample {sample:,} of {rows:,}" in out
    assert f"tokens {span.start:,} to {span.start + span.length - 1:,} " in out
    assert out.count("conversation ") >= 4 and "\u27e6" in out


def test_pretraining_refuses_packed_conversations(chats: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds packed conversations\. Finetune on it with"):
        train_tiny(chats, tmp_path / "run")


def test_dropout_depends_on_the_seed_and_the_rank(base: Path, chats: Path, tmp_path: Path) -> None:
    fields = LORA | {"lora.dropout": 0.5, "train.max_steps": 2, "validation.every_steps": None}
    losses = {}
    for name, seed in {"a": 1, "again": 1, "b": 2}.items():
        run = tmp_path / name
        run_ranks(finetune_tiny, 1, base, chats, run, fields | {"train.seed": seed})
        losses[name] = losses_of(run)[2]["loss"]
    assert losses["a"] == losses["again"] != losses["b"]
    assert run_ranks(drawn, 2, 1) == run_ranks(drawn, 2, 1)
    assert len({tuple(rank) for rank in run_ranks(drawn, 2, 1)}) == 2


def drawn(seed: int) -> list[float]:
    """What this rank draws after seeding."""
    rng.seed(seed, rank=int(os.environ["RANK"]), step=0)
    return torch.rand(3).tolist()


def test_fewer_rows_than_a_batch_are_one_short_step_an_epoch_together(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    run, rows = tmp_path / "run", rows_of(chats)
    fields = EPOCHS | {"train.epochs": 1, "train.global_batch_size": 64}
    run_ranks(finetune_tiny, 1, base, chats, run, fields)
    records = losses_of(run)
    assert max(records) == 1 and records[1]["consumed"] == rows < 64


def test_numbers_that_train_nothing_or_cannot_be_are_refused(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    for fields, message in (
        (EPOCHS | {"train.epochs": 0.001}, r"train.epochs = 0.001: gives no row to train on"),
        (EPOCHS | {"train.epochs": 1e9}, r"train.epochs = 1000000000.0: must be above 0 and at"),
        ({"lora.rank": 49}, r"lora.rank = 49: is above 48, the most that q_proj of this model"),
        ({"lora.rank": 25}, r"lora.rank = 25: is above 24, the most that k_proj of this model"),
        ({"lora.alpha": 16}, r"lora.alpha = 16: has no effect while lora.rank is null"),
        ({"run.folder": chats}, r"run.folder = .*: holds tokenizer.model, template.yaml but no"),
    ):
        with pytest.raises(ConfigError, match=message):
            finetune_tiny(base, chats, tmp_path / "run", fields)
        assert not (tmp_path / "run").exists()


def test_an_adapter_is_no_start(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is a LoRA adapter\. Merge it with its base first"):
        finetune_tiny(tmp_path / "adapter", chats, tmp_path / "run")


def test_an_older_versions_run_is_refused_and_left_as_it_is(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.begin_attempt({})
    folder.checkpoint(3).mkdir()
    manifest = {
        "format_version": 1, "step": 3, "consumed": 3, "optimizer_step": 3, "world_size": 1,
        "attempt": 1, "identity": {"data.fingerprint": "f"}, "config": {"model": {}},
        "counters": {}, "receipts": {"rank-0.json": "0" * 64},
    }  # fmt: skip
    (folder.checkpoint(3) / "manifest.json").write_text(json.dumps(manifest))
    before = sorted(str(path) for path in folder.path.rglob("*"))
    with pytest.raises(
        UserError, match=r"another version wrote it: data.*tokenizer_sha256 is missing"
    ):
        finetune_tiny(base, chats, folder.path)
    assert sorted(str(path) for path in folder.path.rglob("*")) == before


def test_a_signal_saves_and_stops_and_the_same_command_goes_on(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    forever = {"train.max_steps": 100_000, "validation.every_steps": None}
    ranks = Ranks(finetune_tiny, 2, base, chats, run.path, forever)
    wait_for(lambda: steps_done(run) >= 2)
    ranks.signal(1, signal.SIGTERM)  # not to rank 0, which writes the verdict
    assert ranks.results() == [0, 0]
    verdict = run.read_verdict()
    assert verdict is not None and verdict.kind == "stopped"
    assert run.checkpoint_steps() == [verdict.step]
    more = forever | {"train.max_steps": verdict.step + 1}
    run_ranks(finetune_tiny, 2, base, chats, run.path, more)
    after = run.read_verdict()
    assert after is not None and (after.kind, after.step) == ("finished", verdict.step + 1)


def test_a_sink_that_cannot_be_imported_is_refused_before_processes_start(tmp_path: Path) -> None:
    given = ["--init=model", "--data.path=data", f"--run.folder={tmp_path}/run"]
    with pytest.raises(ConfigError, match=r"metrics.sinks = no_package.sink: cannot be imported"):
        sft_main(["run", *given, "--metrics.sinks=no_package.sink"])
    assert not (tmp_path / "run").exists()
