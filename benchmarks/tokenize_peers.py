"""Peers of 'tokenize run' on its corpus: datatrove's pipeline and Megatron-LM's script.

Neither is among the project's dependencies. Each runs in a process of its own, on one core, with
the interpreter and the folder that the options name:

    python -m venv peers
    peers/bin/pip install 'datatrove[io,processing]' tokenizers
    git clone https://github.com/NVIDIA/Megatron-LM

- datatrove reads the corpus as it lies there, encodes it with Hugging Face's tokenizers, and writes
  it shuffled. It needs a tokenizer.json; ``convert`` makes one that gives the same ids.
- Megatron-LM reads one file of JSON lines, which is made of the corpus before the measurement,
  and encodes with sentencepiece in a pool of one process.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mobilellama.tokenizers.tokenizer import Tokenizer

_COMMANDS = Path(__file__).with_name("tokenize_peer_commands.py")
_SPACE = "\u2581"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_LONGEST_S = 3_600  # Megatron-LM's pool may hang
_NORMAL, _BYTE = 1, 6  # types of sentencepiece's pieces


class Peer:
    """A command that tokenises the corpus into a folder.

    Args:
        words: the command.
        output: the folder; each run makes it anew.
        tokens: counts the tokens in it.
    """

    def __init__(self, words: list[str], output: Path, tokens: Callable[[Path], int]) -> None:
        self._words, self._output, self._tokens = words, output, tokens

    def __call__(self) -> None:
        """Tokenise the corpus; the command's CPU time becomes that of a finished child."""
        shutil.rmtree(self._output, ignore_errors=True)
        self._output.mkdir()
        run = subprocess.run(
            self._words, env=os.environ | _ONE_THREAD, timeout=_LONGEST_S, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert run.returncode == 0, f"{' '.join(self._words)}:\n{run.stdout[-2000:]}"

    def tokens(self) -> int:
        """Return how many tokens the last run wrote, EOS included."""
        return self._tokens(self._output)


def datatrove(python: str, corpus: Path, tokenizer: Tokenizer, scratch: Path) -> Peer:
    """Return datatrove's reader and tokenizer on a folder of .jsonl and .jsonl.zst files."""
    converted, output = scratch / "tokenizer.json", scratch / "datatrove"
    converted.write_text(json.dumps(convert(tokenizer)))
    words = [python, str(_COMMANDS), "datatrove", str(corpus), str(converted), str(output)]
    return Peer(words, output, lambda folder: _uint16_count(folder.glob("*.ds")))


def megatron(script: str, texts: Iterable[str], model: str, scratch: Path) -> Peer:
    """Return Megatron-LM's tools/preprocess_data.py on the texts, written as JSON lines."""
    lines, output = scratch / "megatron.jsonl", scratch / "megatron"
    with open(lines, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    options = {
        "--input": str(lines), "--output-prefix": f"{output}/part", "--workers": "1",
        "--tokenizer-type": "GPTSentencePieceTokenizer", "--tokenizer-model": model,
        "--log-interval": "1000000",
    }  # fmt: skip
    given = [word for option in options.items() for word in option]
    words = [sys.executable, str(_COMMANDS), "megatron", script, *given, "--append-eod"]
    return Peer(words, output, lambda folder: _uint16_count(folder.glob("*.bin")))


def _uint16_count(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths) // 2


def convert(tokenizer: Tokenizer) -> dict[str, object]:
    """Return the tokenizer.json that gives a sentencepiece BPE model's ids.

    sentencepiece joins two neighbours if the result is a piece, the best score first. So each way
    to make a piece of two others is a merge, in the order of the pieces' scores. transformers'
    own conversion puts two spaces first, although they have the worst score, and gives other ids
    to every text with two spaces. No special token is added, so that a literal "</s>" stays text.
    """
    pieces = tokenizer.proto.pieces
    ids = {piece.piece: i for i, piece in enumerate(pieces)}
    normal = {piece.piece for piece in pieces if piece.type == _NORMAL}
    merges = [
        [piece.piece[:k], piece.piece[k:]]
        for piece in sorted((p for p in pieces if p.type == _NORMAL), key=lambda p: -p.score)
        for k in range(1, len(piece.piece))
        if piece.piece[:k] in normal and piece.piece[k:] in normal
    ]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {
            "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, spaces],
        },
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": pieces[tokenizer.unk_id].piece,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": any(piece.type == _BYTE for piece in pieces),
            "ignore_merges": False, "vocab": ids, "merges": merges,
        },
    }  # fmt: skip
