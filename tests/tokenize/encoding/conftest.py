"""What the tests of the encoder share: hostile texts, and small models of several settings."""

import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.tokenize.encoding.memo import LONGEST_UNIT_BYTES
from mobilellama.tokenizers.tokenizer import Tokenizer

Train = Callable[..., Path]

HOSTILE = [
    "",
    " ",
    "  two  spaces   three \n\n\t tab",
    "\u2581under\u2581\u2581lines \u2581",
    "nul\0inside\0",
    "<0x0A> <s> </s> <unk> <pad>",
    "👩‍👩‍👧‍👦 family 🇫🇷 flag",
    "x" * 5_000,
    " " * 3_000,
    "\n" * 3_000,
    "0123456789" * 20,
    "汉字 العربية हिन्दी e\u0301",
    "\ufeffbom\u00a0nbsp\u2028line\u0085next",
    "caf\u00e9 cafe\u0301 \u1e9b\u0323 \ufb01",
    *("q" * (LONGEST_UNIT_BYTES + more) for more in range(-2, 3)),
    *("汉" * (LONGEST_UNIT_BYTES // 3 + more) for more in range(-1, 3)),
    *("z" * length for length in (7, 8, 9, 15, 16, 17, 22, 23, 24, 25, 63, 64, 65, 127, 128)),
    "a " * 100 + "b" * 300 + " c" * 100 + "d" * 300,
]


def random_texts(pieces: list[str], count: int, seed: int) -> list[str]:
    """Return texts of random pieces, characters, runs and specials: what cuts and merges meet."""
    chance = random.Random(seed)
    scripts = [(32, 127), (0xA0, 0x250), (0x300, 0x370), (0x400, 0x500), (0x600, 0x700),
               (0x2500, 0x25FF), (0x3040, 0x3100), (0x4E00, 0x4F00), (0xAC00, 0xAD00),
               (0x1F300, 0x1F700), (0, 0xD800), (0xE000, 0x10FFFF)]  # fmt: skip
    specials = ["</s>", "<s>", "\u2581", "\ufeff", "e\u0301", "\r\n", "\0", "<0x41>", "\u3000"]

    def part() -> str:
        kind = chance.randrange(7)
        if kind < 2:
            return chance.choice(pieces)
        if kind == 2:
            low, high = chance.choice(scripts)
            return "".join(chr(chance.randrange(low, high)) for _ in range(chance.randint(1, 12)))
        if kind == 3:
            return chance.choice(" \n\t\u2581 =-#x0é汉") * chance.choice([1, 2, 3, 8, 17, 40])
        if kind == 4:
            return chance.choice(specials)
        if kind == 5:
            return str(chance.randrange(10**12))
        return "".join(chance.choice(pieces).strip("\u2581 ") for _ in range(chance.randint(2, 30)))

    return ["".join(part() for _ in range(chance.randint(1, 25))) for _ in range(count)]


def normal_texts(path: Path) -> list[str]:
    """Return the spelling of a model's pieces."""
    proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    proto.ParseFromString(path.read_bytes())
    return [piece.piece for piece in proto.pieces]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a small model on Python's library, with LLaMA's settings and the given others."""
    library = Path(os.__file__).parent
    text = "".join(path.read_text() for path in sorted(library.glob("[a-b]*.py")))
    lines = [
        *text.splitlines(),
        "naïve café Ærøskøbing",
        "Привет, мир! \u0441 мамой",
        "汉字汉字 日本語",
    ]

    def make(**settings: object) -> Path:
        chosen = {
            "model_type": "bpe", "vocab_size": 700, "byte_fallback": True,
            "normalization_rule_name": "identity", "add_dummy_prefix": True,
            "remove_extra_whitespaces": False, "split_digits": True,
            "allow_whitespace_only_pieces": True, "unk_id": 0, "bos_id": 1, "eos_id": 2,
            "pad_id": -1, "minloglevel": 2, "character_coverage": 1.0, **settings,
        }  # fmt: skip
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **chosen
        )
        path = tmp_path_factory.mktemp("model") / "tokenizer.model"
        path.write_bytes(model.getvalue())
        return path

    return make


@pytest.fixture
def changed(small_tokenizer: Path, tmp_path: Path) -> Callable[[Callable[..., None]], Tokenizer]:
    """Opens the small tokenizer after a change of its protocol buffer."""

    def make(change: Callable[..., None]) -> Tokenizer:
        proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
        proto.ParseFromString(small_tokenizer.read_bytes())
        change(proto)
        path = tmp_path / "changed.model"
        path.write_bytes(proto.SerializeToString())
        return Tokenizer(path)

    return make
