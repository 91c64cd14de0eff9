"""Tables of texts, and what tokenising reads of them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices

TEXTS = [f"row {i} é" for i in range(700)]


def read(sources: SourcesConfig) -> tuple[list[list[str]], list[Counts]]:
    """Return the texts and the counts of each slice."""
    texts, counted = [], []
    for slice_ in find_slices(sources, 1 << 30):
        counted.append(Counts())
        batches = read_documents(slice_, sources, counted[-1])
        texts.append([text for batch in batches for text in batch])
    return texts, counted


def write_parquet(path: Path, texts: list[str | None], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": list(range(len(texts))), column: texts}), path)


def write_json_lines(path: Path, texts: list[str | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))
