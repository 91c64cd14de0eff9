import json
import random
import re
from pathlib import Path

import pytest
import zstandard
from sentencepiece import SentencePieceProcessor

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.main import main
from mobilellama.tokenize.train_tokenizer import share_out
from mobilellama.tokenizers.fast_tokenizer import fast_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer


def train(corpus: Path, output: Path, *arguments: str) -> Path:
    given = ["--sources.root", str(corpus), "--output", str(output), *arguments]
    assert main(["train-tokenizer", *given]) == 0
    return output


def test_the_model_has_llamas_settings_and_special_ids(small_tokenizer: Path) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    trainer, normalizer = tokenizer.proto.trainer_spec, tokenizer.proto.normalizer_spec
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 800
    assert trainer.model_type == 2 and trainer.byte_fallback and trainer.split_digits
    assert trainer.allow_whitespace_only_pieces
    assert normalizer.name == "identity" and not normalizer.precompiled_charsmap
    assert normalizer.add_dummy_prefix and not normalizer.remove_extra_whitespaces


def test_no_piece_holds_a_line_break_or_two_digits(small_tokenizer: Path) -> None:
    pieces = [piece.piece for piece in Tokenizer(small_tokenizer).proto.pieces]
    assert not [piece for piece in pieces if "\n" in piece]
    learnt = [piece for piece in pieces if not piece.startswith("<0x")]
    assert not [piece for piece in learnt if sum(map(str.isdigit, piece)) > 1]
    assert "▁▁▁▁" in pieces  # code is indented


def test_every_text_is_decoded_to_itself(small_tokenizer: Path) -> None:
    processor = SentencePieceProcessor(model_file=str(small_tokenizer))
    for text in ("  two  spaces ", "tab\tline\n\nend", "汉字 😀 é", "</s> <s>", "nul\0"):
        assert processor.decode(processor.encode(text)) == text


def test_the_same_corpus_gives_the_same_model(
    small_corpus: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    again = train(small_corpus, tmp_path / "again.model", "--vocab_size", "800")
    assert again.read_bytes() == small_tokenizer.read_bytes()


def hostile_texts(pieces: list[str], count: int) -> list[str]:
    """Make random strings of pieces, runs of spaces, special names and rare characters."""
    rng = random.Random(7)
    parts = [piece.replace("▁", " ") for piece in pieces]
    parts += [" " * n for n in range(1, 30)] * 20
    parts += ["\n", "\t", "\r\n", "▁", "▁▁", "\0", "</s>", "<s>", "<unk>", "<0x0A>", "0", "42"] * 9
    parts += [
        "é",
        "e\u0301",
        "ﬁ",
        "\ufeff",
        "\u00a0",
        "\u200b",
        "👩‍👩‍👧",
        "汉",
        "ع",
        "हि",
        "\U0010ffff",
    ] * 9
    return ["".join(rng.choices(parts, k=rng.randint(1, 40))) for _ in range(count)]


def test_the_exported_tokenizer_encodes_exactly_as_the_trained_model(
    small_tokenizer: Path,
) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    fast = fast_tokenizer(tokenizer)
    fast.encode_special_tokens = True  # text that spells </s> is text, as in sentencepiece
    texts = hostile_texts([piece.piece for piece in tokenizer.proto.pieces], 4_000)
    different = [
        text
        for text in texts
        if fast.encode(text, add_special_tokens=False).ids != tokenizer.processor.encode(text)
    ]
    assert different == []


def slices(**sizes: list[int]) -> list[Slice]:
    return [
        Slice(subset=name, bucket=i, source=f"{name}/{i}.jsonl", size=size, start=0, end=size)
        for name, mine in sizes.items()
        for i, size in enumerate(mine)
    ]


@pytest.mark.parametrize(
    ("sizes", "amount", "expected"),
    [
        ({"a": [100, 100], "b": [100]}, 60, [15, 15, 30]),  # equal subsets, then equal files
        ({"a": [100, 100], "b": [10]}, 60, [25, 25, 10]),  # b gives all it has
        ({"a": [5, 100], "b": [100]}, 60, [5, 25, 30]),
        ({"a": [5], "b": [7]}, 1000, [5, 7]),
        ({"a": [5], "b": [7]}, 1, [0, 1]),
    ],
)
def test_the_sample_is_shared_out_over_subsets_and_files(
    sizes: dict[str, list[int]], amount: int, expected: list[int]
) -> None:
    assert share_out(slices(**sizes), amount) == expected


def test_the_sample_is_no_larger_than_asked_for(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small_corpus, tmp_path / "m", "--vocab_size", "500", "--sample_bytes", "300000")
    said = capsys.readouterr().out
    assert re.search(r"500 pieces from 300\.\d kB of text in 5 slices", said)


def test_an_existing_model_is_not_overwritten(small_corpus: Path, small_tokenizer: Path) -> None:
    with pytest.raises(ConfigError, match="exists already, and a dataset may depend on it"):
        train(small_corpus, small_tokenizer)


def test_a_text_too_small_for_the_vocabulary_is_refused(small_corpus: Path, tmp_path: Path) -> None:
    arguments = ("--vocab_size", "20000", "--sample_bytes", "20000")
    with pytest.raises(ConfigError, match=r"vocab_size = 20000: does not fit the text .*too high"):
        train(small_corpus, tmp_path / "m", *arguments)
    assert not (tmp_path / "m").exists()


def test_a_vocabulary_without_room_for_the_bytes_is_refused(
    small_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="vocab_size = 259: must be at least 260"):
        train(small_corpus, tmp_path / "m", "--vocab_size", "259")


def test_a_corrupt_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpus/c4").mkdir(parents=True)
    (tmp_path / "corpus/c4/a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(DataError, match=r"c4/a\.jsonl\.zst: truncated"):
        train(tmp_path / "corpus", tmp_path / "m")
    # Cut in its middle, where the first lines have been trained on already.
    lines = [json.dumps({"text": random.Random(i).randbytes(500).hex()}) for i in range(5000)]
    packed = zstandard.compress("\n".join(lines).encode())
    (tmp_path / "corpus/c4/a.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"c4/a\.jsonl\.zst: truncated"):
        train(tmp_path / "corpus", tmp_path / "m")


def test_a_vocabulary_beyond_reason_is_refused(small_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vocab_size = 10{12}: must be at most 1,000,000"):
        train(small_corpus, tmp_path / "m", "--vocab_size", str(10**12))


def test_a_place_where_nothing_can_be_written_is_refused_before_training(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilellama.tokenize.train_tokenizer.train", lambda *_: pytest.fail())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output = .*/m: its folder cannot be made \("):
        train(small_corpus, tmp_path / "file/m")
    with pytest.raises(ConfigError, match=r"output = .*/m: lies within sources.root"):
        train(small_corpus, small_corpus / "c4/m")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"output = .*/m: .* may not be written to"):
        train(small_corpus, tmp_path / "m")
