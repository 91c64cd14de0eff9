"""What tells a model's folder from others, without reading all of its weights."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_BLOCKS, _BLOCK_BYTES = 64, 4096
# All that decides an answer beside the weights.
_DECISIVE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "template.yaml",
)  # fmt: skip


def sampled_sha256(whole: Iterable[Path], sampled: Iterable[Path]) -> str:
    """Return a sha256 over small files and, of large ones, names, sizes and evenly spaced blocks.

    Args:
        whole: files whose every byte counts.
        sampled: files of which 64 blocks of 4 KiB count.
    """
    digest = hashlib.sha256()
    for path in whole:
        digest.update(path.read_bytes())
    for path in sampled:
        size_bytes = path.stat().st_size
        digest.update(f"\n{path.name} {size_bytes}\n".encode())
        with open(path, "rb") as file:
            for i in range(_BLOCKS):
                file.seek(max(0, size_bytes - _BLOCK_BYTES) * i // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def identify(folder: str) -> str:
    """Return a sha256 that tells this model from any other, wherever its folder lies.

    Of each weights file its size and 64 blocks, evenly spaced, the first and the last bytes
    among them: training changes every tensor, so that another checkpoint differs in all of them.
    The other files whole.
    """
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return sampled_sha256(
        [path for path in paths if path.name in _DECISIVE],
        [path for path in paths if path.suffix in (".safetensors", ".bin")],
    )
