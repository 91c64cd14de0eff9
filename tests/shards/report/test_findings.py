import re
from dataclasses import replace
from pathlib import Path

from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.bad_records import BadExample, BadReason
from mobilellama.shards.report.duplicates import DuplicateCounts, Duplicates, RepeatedDocument
from mobilellama.shards.report.excerpts import Excerpt
from mobilellama.shards.report.findings import bad_section, duplicate_section, sample_section
from mobilellama.shards.report.gather import gather
from tests.shards.report.test_gather import OPTIONS

HOSTILE = "</pre><script>a</script>"


def test_examples_stand_below_their_reason_as_text(odd_dataset: Path) -> None:
    dataset = TokenDataset(odd_dataset)
    content = gather(dataset, dataset.tokenizer, OPTIONS)
    assert "With --sources, the report shows what stands" in bad_section(content)
    example = BadExample(place=f"c4/{HOSTILE}, line 3", detail=HOSTILE, raw=HOSTILE)
    reason = BadReason(subset="c4", reason=HOSTILE, count=1234, examples=(example, example))
    made = bad_section(replace(content, bad=[reason], has_sources=True))
    assert "With --sources" not in made and "<script" not in made
    assert made.count("&lt;/pre&gt;&lt;script&gt;a&lt;/script&gt;") == 1 + 2 * 3
    records = dataset.totals["c4"]["records"]
    assert ">1,234</td>" in made and f">{100 * 1234 / records:.4f} %</td>" in made
    none = bad_section(replace(content, bad=[]))
    assert f"None of {content.total('records'):,} records." in none


def test_estimates_are_said_to_be_ones(odd_dataset: Path) -> None:
    dataset = TokenDataset(odd_dataset)
    content = gather(dataset, dataset.tokenizer, OPTIONS)
    assert "All documents were compared." in duplicate_section(content)
    counts = DuplicateCounts(documents=200, copies=50, tokens=4000, copied_tokens=400)
    repeated = RepeatedDocument(
        count=7, subsets={"c4": 5, "book": 2}, bucket="c4/00000", document=1
    )
    found = Duplicates(share=0.0125, total=counts, subsets={"c4": counts}, repeated=[repeated])
    excerpt = Excerpt(bucket="c4/00000", document=1, tokens=900, text=HOSTILE, is_cut=True)
    made = duplicate_section(replace(content, duplicates=found, repeated=[excerpt]))
    assert "1.25 % of all texts were drawn at random" in made and "estimates" in made
    cells = re.findall(r'<td class="number">(.*?)</td>', made)
    assert cells == ["200", "50", "25.00 %", "400", "10.00 %"] * 2
    assert "<b>7 times: 5 in c4, 2 in book</b>" in made
    assert "<pre>&lt;/pre&gt;&lt;script&gt;a&lt;/script&gt;" in made and made.count("<pre>") == 1


def test_samples_are_quoted_and_none_is_no_section(odd_dataset: Path) -> None:
    dataset = TokenDataset(odd_dataset)
    content = gather(dataset, dataset.tokenizer, OPTIONS)
    made = sample_section(content)
    assert made.count("<figure>") == 5 and "An article. An article." in made
    assert sample_section(replace(content, samples=[])) == ""
