"""The normal form of short answers, by hand-made examples; each line is one rule or one quirk."""

import pytest

from mobilellama.vlm.benchmarks.vqa_normaliser import (
    CONTRACTIONS,
    NUMBER_WORDS,
    normalise,
    strip_punctuation,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Coca Cola", "coca cola"),
        ("  Coca\n\tCola ", "coca cola"),
        ("The cat and a dog, an owl", "cat and dog owl"),
        ("None", "0"),
        ("ten zero TWO", "10 0 2"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("wed've", "we'd've"),
        ("wed", "wed"),
        ("somebody'd", "somebodyd"),  # the wrong way round
        ("ow's'at", "ow 's'at"),  # 's is split off first
        ("John's", "john 's"),
        ("dog-cat", "dog cat"),
        ("dog -cat", "dog cat"),  # beside a space the mark goes
        ("dog-cat -x", "dogcat x"),  # ... wherever it stands
        ("a/b", "b"),  # "a b", and then a is an article
        ("what? yes!", "what yes"),
        ("yes!", "yes"),
        ("(yes)", "yes"),
        ("1,000", "1000"),  # commas are gone before the rule of commas
        ("$1,000.", "$1000"),
        ("3.5", "3.5"),
        ("3.5.", "3.5"),
        ("no. 5", "no 5"),
        ("a.m.", "am"),
        ("x.5", "x.5"),
        ("v<=3.x", "v 3x"),
        ("don't stop.", "don't stop"),
        ("it's", "it 's"),
        (".", ""),
        ("the", ""),
        ("", ""),
        ("." * 40 + "x", "." * 8 + "x"),  # at most 32 dots go
        ("ÉCOLE", "école"),
    ],
)
def test_a_text_has_one_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_a_comma_between_digits_has_all_marks_deleted() -> None:
    """In ``normalise`` no comma is left by then: the original's two steps overlap."""
    assert strip_punctuation("1,000-x/y") == "1000xy"
    assert strip_punctuation("1, 000-x/y") == "1 000 x y"


@pytest.mark.parametrize("text", ["Coca Cola", "3.5", "don't", "10", "john 's"])
def test_a_normal_form_is_its_own(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_each_contraction_mends_one_lost_apostrophe() -> None:
    assert len(CONTRACTIONS) == 114
    for misspelt, word in CONTRACTIONS.items():
        if misspelt != "somebody'd":
            assert len(word) == len(misspelt) + 1
            assert word.replace("'", "") == misspelt.replace("'", "")


def test_number_words_count_from_none_to_ten() -> None:
    assert NUMBER_WORDS["none"] == NUMBER_WORDS["zero"] == "0"
    words = "one two three four five six seven eight nine ten".split()
    assert [NUMBER_WORDS[word] for word in words] == [str(n) for n in range(1, 11)]
