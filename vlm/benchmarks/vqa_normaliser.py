"""The normal form of a short answer, by the rules of the VQA challenge as LLaVA's copy has them.

``normalise`` is what LLaVA, MobileVLM and others score TextVQA with. It differs in places from
what its authors meant; those places are kept, since the published scores have them, and each has
a name here.
"""

import re

_NUMBERS = "none zero one two three four five six seven eight nine ten".split()
NUMBER_WORDS = {word: str(max(i - 1, 0)) for i, word in enumerate(_NUMBERS)}
"""none and zero are 0, ten is 10."""

ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_CONTRACTIONS = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's
    how'd how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've
    o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll
    someone's something'd something'll that's there'd there're there's they'd they'll they're
    they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd
    you'll you're you've
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've
    someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've you'd've
    y'all'll y'all'd've 'ow's'at
""".split()


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {
    misspelt: word for word in _CONTRACTIONS for misspelt in _without_one_apostrophe(word)
} | {"somebody'd": "somebodyd"}  # the wrong way round, in every copy of the table
"""The right spelling by one that lacks an apostrophe."""

_COMMA_BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")
_DOT_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
# The original passes the flag re.UNICODE, whose number is 32, where the count belongs.
_DOTS_REMOVED_AT_MOST = 32


def normalise(text: str) -> str:
    """Return the form in which answers are compared."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return spell_words(strip_punctuation(text))


def strip_punctuation(text: str) -> str:
    """Delete each mark that stands beside a space anywhere in the text; else make it a space.

    A comma between digits has all marks deleted. Then the first 32 dots go that no digit
    follows: "3.5." gives "3.5", and "no. 5" gives "no 5".
    """
    deletes_all = _COMMA_BETWEEN_DIGITS.search(text) is not None
    stripped = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if deletes_all or beside_space else " ")
    return _DOT_BEFORE_NO_DIGIT.sub("", stripped, count=_DOTS_REMOVED_AT_MOST)


def spell_words(text: str) -> str:
    """Write number words as digits, drop articles, mend contractions, join by single spaces."""
    words = (NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
