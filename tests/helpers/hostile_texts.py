"""Texts on which tokenizers that claim to equal sentencepiece have been seen to differ."""

import random

_CHOSEN = [
    *(" " * n for n in range(1, 70)),
    *("a" + " " * n + "b" for n in range(70)),
    *("\n" * n for n in range(1, 5)),
    *("\t" * n + "x" for n in range(1, 4)),
    "",
    "Hello world",
    " lead",
    "  two",
    "trailing  ",
    "a  b   c",
    " .",
    "▁",
    "▁▁ x",
    "a▁b ▁ c",
    "\x00",
    "a\x00b",
    "<0x0A>",
    "<0x0A><0xE2>",
    "\r\n",
    "🙂 👩‍👩‍👧",
    "日本語 のテスト",
    "e\u0301 é ﬁ \ufeff\u00a0\u200b z",
    "\ufffd",
    "\U0010ffff",
    "A" * 50,
    "3.14159 1000000 0x1F",
    "def f(x):\n    if x:\n        return  {'a': [1,  2]}\n",
]


def hostile_texts(count: int = 4000, *, seed: int = 0) -> list[str]:
    """Return the chosen texts and `count` random ones; none spells <s>, </s> or <unk>."""
    rng = random.Random(seed)
    parts = [
        lambda: chr(rng.randrange(32, 127)),
        lambda: chr(rng.randrange(32, 127)),
        lambda: " " * rng.randrange(1, 6),
        lambda: "▁",
        lambda: chr(rng.randrange(0xA0, 0x2FFF)),
        lambda: chr(rng.randrange(0x1F300, 0x1F700)),
        lambda: "\n",
    ]
    made = ["".join(rng.choice(parts)() for _ in range(rng.randrange(1, 60))) for _ in range(count)]
    return [text for text in _CHOSEN + made if not spells_special(text)]


def spells_special(text: str) -> bool:
    """Whether the text spells a special token, which tokenizer.json reads and sentencepiece not."""
    return any(token in text for token in ("<s>", "</s>", "<unk>"))
