"""docs/format.md, against a reader that someone wrote from that page alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mobilellama.files.sealed import write_sealed_json
from mobilellama.shards.order import open_order
from mobilellama.shards.permute import Permutation
from mobilellama.shards.reader import TokenDataset
from tests.helpers import format_page as page


@pytest.fixture
def copied(small_dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_dataset, tmp_path / "copied")


def test_the_page_s_reader_finds_a_dataset_sound(small_dataset: Path) -> None:
    assert page.check_dataset(small_dataset) == TokenDataset(small_dataset).fingerprint


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 4097])
def test_the_page_s_permutation_is_ours(n: int) -> None:
    for key in ((1337, "c4", 0), (7, "d'un é", 3)):
        ours = Permutation(n, *key)(np.arange(n)).tolist()
        assert [page.permute(n, key, value) for value in range(n)] == ours


def test_a_source_document_is_where_the_page_says(small_dataset: Path, small_corpus: Path) -> None:
    tokenizer = TokenDataset(small_dataset).tokenizer
    lines = (small_corpus / "github/filtered_1.sampled.jsonl").read_text().splitlines()
    for number in (0, 7, len(lines) - 1):
        ids = page.document_at(small_dataset, "github", 1, number)
        assert tokenizer.decode(ids[:-1]) == json.loads(lines[number])["text"]


@pytest.mark.parametrize("weights", [None, {"github": "0.3", "common_crawl": "1.1"}])
def test_the_page_s_order_of_samples_is_ours(
    small_dataset: Path, tmp_path: Path, weights: dict[str, str] | None
) -> None:
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text("".join(f"{name}: {value}\n" for name, value in (weights or {}).items()))
    mixed, views = open_order(
        TokenDataset(small_dataset),
        seq_len=64,
        mixture=str(mixture) if weights else None,
        seed=11,
    )
    positions = range(65_000, 66_000)  # over the end of a period
    located = mixed.locate(positions)
    ours = [
        (mixed.subsets[s], e, i)
        for s, e, i in zip(located.subset, located.epoch, located.sample, strict=True)
    ]
    found = page.order(small_dataset, seq_len=64, seed=11, weights=weights, positions=positions)
    assert found == ours
    for subset, view in views.items():
        places = page.samples(small_dataset, subset, 64)
        spans = [view.span(sample) for sample in range(len(view))]
        assert places == [(int(span.bucket.rpartition("/")[2]), span.start) for span in spans]


def test_what_the_page_lets_one_check_is_found(copied: Path) -> None:
    def refused(path: Path, content: bytes, told: str) -> None:
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ValueError, match=told):
            page.check_dataset(copied)
        path.write_bytes(before)

    for name in ("github/00000.bin", "github/00000.idx", "manifest.parquet", "tokenizer.model"):
        content = bytearray((copied / name).read_bytes())
        content[-1] ^= 1
        refused(copied / name, bytes(content), "wrong")
    for name in ("plan.json", "dataset.json", "github/00000.json"):
        content = (copied / name).read_bytes().replace(b'"github"', b'"gitbuh"')
        refused(copied / name, content, "wrong content_sha256")
    assert page.check_dataset(copied)


def test_every_field_of_our_files_is_on_the_page(small_dataset: Path) -> None:
    text = (Path(__file__).parents[1] / "docs/format.md").read_text(encoding="utf-8")
    receipt = json.loads((small_dataset / "github/00000.json").read_text())
    plan = json.loads((small_dataset / "plan.json").read_text())
    names = {*receipt, *receipt["source_file"], *receipt["sha256"], *plan, *plan["identity"]}
    names |= {*plan["slices"][0], *json.loads((small_dataset / "dataset.json").read_text())}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_the_page_s_example_of_a_digest_is_ours(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    digest = json.loads((tmp_path / "a.json").read_text())["content_sha256"]
    text = (Path(__file__).parents[1] / "docs/format.md").read_text(encoding="utf-8")
    assert f"`{digest}`" in text
    assert page.read_sealed(tmp_path / "a.json") == {"b": 1, "a": "é"}
