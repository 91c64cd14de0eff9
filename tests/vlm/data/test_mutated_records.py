from collections import Counter
from pathlib import Path

from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.records import ImageTextConfig, Refused, read_vlm_records
from mobilellama.vlm.data.sample_file import Recipe, build_samples
from tests.sft.helpers.mutations import write_mutated


def test_every_mutated_record_is_taken_or_refused_for_one_reason(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    path = write_mutated(tmp_path / "a.jsonl", 2_000, seed=12)
    data = ImageTextConfig(path=str(path), images=str(tmp_path))
    found = list(read_vlm_records(data, folder=None))
    refused = Counter(str(item.reason) for item in found if isinstance(item, Refused))
    assert len(found) == 2_000
    assert all(item.describe() for item in found if isinstance(item, Refused))
    assert len(refused) > 15
    recipe = Recipe(
        data=data,
        tokenizer=str(small_tokenizer),
        tokenizer_sha256=Tokenizer(small_tokenizer).sha256,
        template=read_template("vicuna_v1"),
        image_tokens=4,
        seq_len=2048,
    )
    given = recipe.fingerprint()
    report = build_samples(tmp_path / "s.arrow", recipe, fingerprint=given, workers=1)
    assert report.records == 2_000 == report.samples + sum(report.refused.values())
    assert report.refused == refused and report.unread_fields
