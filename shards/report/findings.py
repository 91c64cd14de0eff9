"""The sections of a report that quote texts: bad records, equal documents, and documents at random.

What they quote is of the corpus, and stands in the page as text (html.py).
"""

from mobilellama.progress import format_count
from mobilellama.shards.report.excerpts import Excerpt
from mobilellama.shards.report.gather import ReportContent
from mobilellama.shards.report.html import Html, element, table


def bad_section(content: ReportContent) -> Html:
    """Return the bad records by reason, with examples."""
    title = element("h2", "Bad records")
    if not content.bad:
        note = f"None of {format_count(content.total('records'), 'record')}."
        return element("section", title, element("p", note))
    rows: list[list[str]] = [["subset", "reason", "records", "share of those read", "examples"]]
    everything = content.total("records")
    for one in content.bad:
        read = content.totals.get(one.subset, {}).get("records", everything)
        examples = [
            element(
                "div",
                element("span", f"{example.place}: {example.detail}", class_="place"),
                *([element("code", example.raw)] if example.raw else []),
                class_="example",
            )
            for example in one.examples
        ]
        share = f"{100 * one.count / max(read, 1):.4f} %"
        rows.append([one.subset, one.reason, f"{one.count:,}", share, element("div", *examples)])
    note = "Records that gave no document. They are counted and skipped."
    if not content.has_sources and content.identity.packing is None:
        note += " With --sources, the report shows what stands at these places."
    return element("section", title, element("p", note), table(rows, text_columns=(0, 1, 4)))


def duplicate_section(content: ReportContent) -> Html:
    """Return how many documents are copies, and the most frequent ones."""
    found = content.duplicates
    rows: list[list[str]] = [
        ["subset", "compared", "copies", "share", "tokens of copies", "share of tokens"]
    ]
    for name, counts in (*found.subsets.items(), ("all, and between subsets", found.total)):
        cells = (
            f"{counts.documents:,}",
            f"{counts.copies:,}",
            f"{100 * counts.copies / max(counts.documents, 1):.2f} %",
            f"{counts.copied_tokens:,}",
            f"{100 * counts.copied_tokens / max(counts.tokens, 1):.2f} %",
        )
        rows.append([name, *cells])
    note = (
        "A copy is a document whose ids are all those of another one; the first of each text is no "
        "copy. "
    )
    if found.share == 1:
        note += "All documents were compared."
    else:
        note += (
            f"{100 * found.share:.4g} % of all texts were drawn at random and compared in all "
            "their copies. The shares are estimates for the rest. --max_tokens sets how much is "
            "read."
        )
    blocks = [
        _quote(f"{one.count:,} times: {_counts(one.subsets)}", excerpt)
        for one, excerpt in zip(found.repeated, content.repeated, strict=True)
    ]
    if blocks:
        blocks.insert(0, element("h3", "The most frequent"))
    title = element("h2", "Equal documents")
    return element("section", title, element("p", note), table(rows), *blocks)


def sample_section(content: ReportContent) -> Html:
    """Return the beginnings of documents drawn at random."""
    if not content.samples:
        return Html("")
    note = f"The beginnings of documents of each subset, drawn with seed {content.options.seed}."
    blocks = [_quote(excerpt.bucket.partition("/")[0], excerpt) for excerpt in content.samples]
    title = element("h2", "Documents at random")
    return element("section", title, element("p", note), *blocks)


def _counts(subsets: dict[str, int]) -> str:
    if len(subsets) == 1:
        return f"all in {next(iter(subsets))}"
    return ", ".join(f"{count:,} in {name}" for name, count in subsets.items())


def _quote(title: str, excerpt: Excerpt) -> Html:
    place = f"bucket {excerpt.bucket}, document {excerpt.document:,}, {excerpt.tokens:,} tokens"
    end = [element("span", " …", class_="more")] if excerpt.is_cut else []
    heading = element("figcaption", element("b", title), " ", element("span", place))
    return element("figure", heading, element("pre", excerpt.text, *end))
