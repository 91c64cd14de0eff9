"""Megatron-LM's indexed dataset: a pair of ``.bin`` and ``.idx`` for each part, and the blend.

A bucket is such a pair already. The export joins many buckets into a few pairs, parts the held-out
documents from the others, and writes ``blend.json`` for --per-split-data-args-path.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilellama.files.atomic import whole_file, write_json
from mobilellama.shards.export.parts import ExportPart, Portion
from mobilellama.shards.format import little_endian, write_index

_BLEND = "blend.json"


@dataclass(frozen=True, kw_only=True)
class MegatronFormat:
    """Writes pairs of ``.bin`` and ``.idx``."""

    dtype: str
    shares: Mapping[str, int]
    """Each subset's weight in the blend. A subset that is not named is left out of it."""
    endings = ("bin", "idx")

    @property
    def bytes_a_token(self) -> float:
        """About how much disk a token takes."""
        return little_endian(self.dtype).itemsize

    def write_part(self, stem: Path, part: ExportPart, portions: Iterable[Portion]) -> None:
        """Write ``.bin``, then ``.idx``."""
        lengths = [np.empty(0, np.int32)]
        with whole_file(stem.with_name(f"{stem.name}.bin")) as file:
            for portion in portions:
                file.write(portion.ids.data)
                lengths.append(portion.lengths)
        with whole_file(stem.with_name(f"{stem.name}.idx")) as file:
            write_index(file, np.concatenate(lengths), self.dtype)

    def write_around(self, folder: Path, parts: Sequence[ExportPart]) -> list[str]:
        """Write blend.json: a weight and an absolute path for each part.

        The parts of a subset divide its share in proportion to their tokens.
        """
        blend: dict[str, list[str] | None] = {"test": None}
        for key, split in (("train", "train"), ("valid", "heldout")):
            mine = [part for part in parts if part.split == split and part.subset in self.shares]
            tokens = dict.fromkeys(self.shares, 0)
            for part in mine:
                tokens[part.subset] += part.tokens
            pairs: list[str] = []
            for part in mine:
                weight = self.shares[part.subset] * part.tokens / tokens[part.subset]
                pairs += [f"{weight:.9g}", str(folder.resolve() / part.name)]
            blend[key] = pairs or None
        write_json(folder / _BLEND, blend)
        return [_BLEND]

    def how_to_read(self, folder: Path, part: ExportPart) -> str:
        """Return the line that tells how to use the files."""
        return f"Megatron-LM: --per-split-data-args-path {folder / _BLEND}"
