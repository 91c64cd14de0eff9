from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenize.sources.config import SourcesConfig


def test_an_output_within_a_corpus_of_either_kind_is_refused(tmp_path: Path) -> None:
    for sources in (SourcesConfig(root=str(tmp_path)), SourcesConfig(dataset=str(tmp_path))):
        for output in (tmp_path, tmp_path / "a/b", tmp_path / "a/../b"):
            with pytest.raises(ConfigError, match=r"output = .*: lies within sources\."):
                sources.require_outside(str(output))
        sources.require_outside(str(tmp_path / "../beside"))
    SourcesConfig(dataset="hub/name").require_outside("hub/name/out")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"sources.root = \(not given\): exactly one of"),
        ({"root": "a", "dataset": "b"}, "exactly one of sources.root and sources.dataset"),
        ({"root": "a", "subset": "b"}, "sources.subset = b: belongs to sources.dataset"),
        ({"root": "a", "name": "b"}, "sources.name = b: belongs to sources.dataset"),
        ({"dataset": "a", "subset": "../b"}, "sources.subset = ../b: must be a plain folder name"),
        ({"dataset": "a", "rows_per_slice": 0}, "sources.rows_per_slice = 0: must be at least 1"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SourcesConfig(**fields)  # pyright: ignore[reportArgumentType]
