"""Documents found by their number, and by the line of the source that gave them."""

import json
import re
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.document import place_in_bucket, place_of_line
from mobilellama.shards.showing.parts import document_part
from mobilellama.tokenize.main import main as tokenize_main

ROWS = Path(__file__).parents[2] / "fixtures/made_by_22bff75/rows"
BAD = {4: "not JSON", 9: json.dumps({"text": ""}), 10: json.dumps({"text": 3}), 31: ""}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Path
) -> tuple[TokenDataset, Path]:
    """A file whose lines are in several buckets, and some of them gave no document."""
    folder = tmp_path_factory.mktemp("made")
    root = folder / "corpus"
    (root / "c4").mkdir(parents=True)
    lines = [BAD.get(i, json.dumps({"text": f"document of line {i} " * 9})) for i in range(1, 41)]
    (root / "c4/a.jsonl").write_text("\n".join(lines) + "\n")
    output = folder / "out"
    arguments = ["--tokenizer", str(small_tokenizer), "--sources.root", str(root), "--workers", "1"]
    arguments += ["--output", str(output), "--slice_bytes", "2000"]
    assert tokenize_main(["run", *arguments]) == 0
    return TokenDataset(output), root


def test_each_line_leads_to_the_document_that_it_gave(made: tuple[TokenDataset, Path]) -> None:
    dataset, root = made
    assert len(dataset.manifest) >= 3
    needing = 0
    for line in range(1, 41):
        if line in BAD:
            with pytest.raises(ConfigError, match=f"line = {line}: this line gave no document"):
                place_of_line(dataset, "c4/a.jsonl", line, str(root))
            continue
        place = place_of_line(dataset, "c4/a.jsonl", line, str(root))
        part = document_part(dataset, dataset.tokenizer, place.bucket, place.document)
        assert part.text == f"document of line {line} " * 9
        try:
            assert place_of_line(dataset, "c4/a.jsonl", line, None) == place
        except ConfigError as error:
            assert re.search("of this part of the file gave no document. To tell .*", str(error))
            needing += 1
    assert 5 < needing < 36  # of a bucket without bad lines, no corpus is needed


def test_a_wrong_file_line_bucket_or_number_is_told(made: tuple[TokenDataset, Path]) -> None:
    dataset, root = made
    with pytest.raises(ConfigError, match=r"line = 41: c4/a\.jsonl has 40 lines\. Give 1 to 40"):
        place_of_line(dataset, "c4/a.jsonl", 41, str(root))
    with pytest.raises(ConfigError, match=r"is no source .*did you mean 'c4/a\.jsonl'"):
        place_of_line(dataset, "c4/b.jsonl", 1, str(root))
    with pytest.raises(ConfigError, match=r"bucket = c4/7: is none of . buckets, such as c4/00000"):
        place_in_bucket(dataset, "c4/7", 0)
    count = dataset.row("c4/00000")["documents"]
    assert place_in_bucket(dataset, "c4/00000", count - 1).document == count - 1
    with pytest.raises(ConfigError, match=f"document = {count}: bucket c4/00000 has {count} doc"):
        place_in_bucket(dataset, "c4/00000", count)
    with pytest.raises(ConfigError, match="is not possible in a dataset of conversations"):
        place_of_line(TokenDataset(ROWS), "chats.json", 1, None)


def test_a_source_that_has_changed_is_told(made: tuple[TokenDataset, Path], tmp_path: Path) -> None:
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4/a.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"a\.jsonl: 3 bytes, but it had"):
        place_of_line(made[0], "c4/a.jsonl", 1, str(tmp_path))
