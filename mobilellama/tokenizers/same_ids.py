"""Compare the ids of two tokenizers of any kind, when their files cannot be compared.

A sentencepiece model and the tokenizer.json made from it are different files with the same ids.
"""

from collections.abc import Mapping

from mobilellama.tokenizers.text_tokenizer import TextTokenizer

# Conversions, and models with other training text or rules, were seen to differ on these texts.
PROBES = (
    *("a" + " " * n + "b" for n in range(1, 40)),  # the order of merges shows in runs of spaces
    *(" " * n + "x" for n in range(1, 18)),
    *("\n" * n + "x" for n in range(1, 6)),
    "",
    " ",
    "\n",
    "\t\tx \t y\r\nz  ",
    "USER: What is the capital of France? ASSISTANT: The capital of France is Paris.",
    "user\nsystem\nassistant\nmodel",
    "internationalisation, antidisestablishmentarianism; WHY? don't, we'll, it's -- etc...",
    "def f(x):\n    if x > 0:\n        return {'a': [1,  2]}  # 100%\n\n\nprint(f(-1e-5))\n",
    "<div class=\"x\">&amp;</div>\n\\frac{1}{2} $x^2$ https://example.org/a_b?c=1&d=%20",
    "3.14159 1000000 0x1F 2024-01-31 1,234.56",
    "naïve café, Straße, Ærø, Łódź, İstanbul",
    "Привет, мир! λέξη. שלום עולם مرحبا بالعالم",
    "日本語のテスト、漢字とかな。 你好世界。 안녕하세요 नमस्ते สวัสดี",
    "e\u0301 é ﬁ \ufeff\u00a0\u200b\u2028z \u2581 \u2581\u2581",
    "🙂 👩‍👩‍👧 🇫🇷 👍🏽 \U0010ffff \ufffd",
    "a\x00b\x01\x7f",
    "<s>x</s> <unk> <pad> <0x0A> <|im_end|> [INST]",
)  # fmt: skip


def same_ids(a: TextTokenizer, b: TextTokenizer) -> bool:
    """Return whether two tokenizers give the same ids.

    This compares the size of the vocabulary, the ids of the special tokens, the ids that begin and
    end a text, and the ids of ``PROBES``. It does not compare the padding, which is masked, or how
    a text after a special token begins.
    """
    if _facts(a) != _facts(b):
        return False
    return all(a.encode(text, begins=True) == b.encode(text, begins=True) for text in PROBES)


def _facts(tokenizer: TextTokenizer) -> Mapping[str, object]:
    return {
        "vocab_size": tokenizer.vocab_size,
        # sentencepiece gives -1 if there is no <s>
        "bos": None if tokenizer.bos_id in (None, -1) else tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "specials": {spelling: special.id for spelling, special in tokenizer.specials.items()},
    }
