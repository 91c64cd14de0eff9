"""Write a report as one HTML page that needs nothing else: no script, font, picture or network."""

from pathlib import Path

import mobilellama
from mobilellama.shards.report.findings import bad_section, duplicate_section, sample_section
from mobilellama.shards.report.gather import ReportContent
from mobilellama.shards.report.html import Html, element, escaped, joined, table
from mobilellama.shards.report.pictures import bar_rows, length_pictures

# Whatever came into the page, a browser would run and fetch nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_QUANTILES = {
    "shortest": 0.0,
    "10 %": 0.1,
    "median": 0.5,
    "90 %": 0.9,
    "99 %": 0.99,
    "longest": 1.0,
}
_STYLE = Path(__file__).with_name("style.css")


def render_page(content: ReportContent, *, date: str) -> str:
    """Return the page.

    Args:
        content: what to show.
        date: when it was collected.
    """
    name = content.path.rstrip("/").rpartition("/")[2] or content.path
    style = _STYLE.read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(f'Dataset {name}')}</title>\n<style>\n{style}</style>"
    )
    sections = [
        element("h1", "Dataset ", element("bdi", name)),
        _facts(content, date),
        _tiles(content),
        _subset_section(content),
        _recipe_section(content),
        _length_section(content),
        _byte_section(content),
        bad_section(content),
        duplicate_section(content),
        sample_section(content),
        element("footer", f"mobilellama {mobilellama.__version__}, shards report"),
    ]
    body = element("body", element("main", *sections))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'


def _facts(content: ReportContent, date: str) -> Html:
    identity = content.identity
    vocabulary = f"{identity.vocab_size:,} ids, stored as {identity.dtype}"
    facts = {
        "folder": content.path,
        "fingerprint": content.fingerprint,
        "tokenizer": f"{content.tokenizer}, {vocabulary}",
        "tokenizer's sha256": identity.tokenizer_sha256,
        "seed of the dataset": str(identity.seed),
        "held out": f"{100 * identity.heldout_share:g} % of each bucket's tokens",
        "collected": date,
    }
    if (packing := identity.packing) is not None:
        facts["rows"] = f"conversations, packed to {packing.seq_len:,} tokens"
    pairs = [joined(element("dt", name), element("dd", value)) for name, value in facts.items()]
    return element("dl", *pairs)


def _tiles(content: ReportContent) -> Html:
    duplicates, bad = content.duplicates, content.total("bad_records")
    copied = _percent(duplicates.total.copies, duplicates.total.documents)
    about = "" if duplicates.share == 1 else "about "
    tiles = {
        _documents(content): f"{content.total('documents'):,}",
        "tokens, EOS included": f"{content.total('tokens'):,}",
        "bytes of UTF-8 text": f"{content.total('bytes_in'):,}",
        "bad records": f"{bad:,} ({_percent(bad, content.total('records'))})",
        "are copies of others": f"{about}{copied}",
    }
    made = [
        element("div", element("b", value), element("span", name), class_="tile")
        for name, value in tiles.items()
    ]
    return element("div", *made, class_="tiles")


def _subset_section(content: ReportContent) -> Html:
    columns = ("buckets", "documents", "tokens", "train_tokens", "records", "bad_records",
               "empty_texts", "replaced_surrogates")  # fmt: skip
    titles = ("buckets", _documents(content), "tokens", "of these for training", "records read",
              "bad", "empty", "half characters replaced")  # fmt: skip
    rows: list[list[str]] = [["subset", *titles]]
    for name, total in content.totals.items():
        rows.append([name, *(f"{total[column]:,}" for column in columns)])
    rows.append(["all", *(f"{content.total(column):,}" for column in columns)])
    return _section("Subsets", table(rows))


def _recipe_section(content: ReportContent) -> Html:
    tokens = {name: total["train_tokens"] for name, total in content.totals.items()}
    recipe = content.recipe
    if recipe is None:
        total = sum(tokens.values())
        bars = [[(value, _percent(value, total))] for value in tokens.values()]
        note = "Share of the training tokens. No recipe is compared: --mixture names one."
        return _section("Shares", element("p", note), bar_rows([*tokens], bars))
    rows: list[list[str]] = [
        ["subset", "training tokens", "share", "share of the recipe", "epochs of the recipe"]
    ]
    bars = []
    for name, line in recipe.lines.items():
        here = f"{100 * line.corpus_share:.2f} %"
        there = f"{100 * line.recipe_share:.2f} %" if line.recipe_share else "-"
        epochs = "-" if line.epochs is None or not line.recipe_share else f"{line.epochs:,.2f}"
        rows.append([name, f"{tokens.get(name, 0):,}", here, there, epochs])
        bars.append(
            [(line.corpus_share, f"dataset {here}"), (line.recipe_share, f"recipe {there}")]
        )
    note = (
        f"Above the share of the dataset's training tokens, below that of the recipe "
        f"{recipe.name}. Epochs are for a run of {recipe.budget_tokens:,.0f} tokens."
    )
    remarks = [element("p", f"Note: {remark}.", class_="note") for remark in recipe.remarks]
    pictures = bar_rows([*recipe.lines], bars)
    return _section("Shares and the recipe", element("p", note), pictures, table(rows), *remarks)


def _length_section(content: ReportContent) -> Html:
    rows: list[list[str]] = [["subset", *_QUANTILES, "mean", "half of the tokens up to"]]
    for name, lengths in content.lengths.items():
        documents, tokens = int(lengths.documents.sum()), int(lengths.tokens.sum())
        quantiles = [f"{lengths.quantile(share):,.0f}" for share in _QUANTILES.values()]
        mean = f"{tokens / documents:,.1f}" if documents else "-"
        rows.append([name, *quantiles, mean, f"{lengths.token_quantile(0.5):,.0f}"])
    note = (
        f"Tokens of {_documents(content)}, EOS included, on a logarithmic axis. Filled: share of "
        f"the {_documents(content)} of each length. Line: share of the tokens. The numbers are "
        "right to 1 %."
    )
    pictures = length_pictures(content.lengths)
    return _section("Lengths in tokens", element("p", note), pictures, table(rows))


def _byte_section(content: ReportContent) -> Html:
    title = "Tokens per byte"
    if content.identity.packing is not None:
        note = "Packed rows have none: their tokens are also those of the chat template."
        return _section(title, element("p", note))
    rows: list[list[str]] = [
        ["subset", "bytes of text", "tokens", "tokens per byte", "bytes per token"]
    ]
    bars: list[list[tuple[float, str]]] = []
    for name, total in content.totals.items():
        size, tokens = total["bytes_in"], total["tokens"]
        per_byte = tokens / size if size else 0.0
        per_token = f"{size / tokens:.3f}" if tokens else "-"
        rows.append([name, f"{size:,}", f"{tokens:,}", f"{per_byte:.4f}", per_token])
        bars.append([(per_byte, f"{per_byte:.3f} tokens a byte")])
    note = "All texts, in bytes of UTF-8 as the receipts count them. Fewer tokens are better."
    pictures = bar_rows([*content.totals], bars)
    return _section(title, element("p", note), pictures, table(rows))


def _section(title: str, *parts: str) -> Html:
    return element("section", element("h2", title), *parts)


def _documents(content: ReportContent) -> str:
    return "documents" if content.identity.packing is None else "conversations"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"
