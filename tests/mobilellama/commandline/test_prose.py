"""Docstrings become help of a given width; tables and commands keep their form."""

from mobilellama.commandline.prose import filled, plain

TEXT = """Write a thing, which is long enough to be filled.

    mobilellama sft export --checkpoint RUN --output FOLDER --push USER/NAME

The paragraph
is one.
1. An item
   stays.

    name    what it
            means, in words
    other   nothing
    steps:
      - one"""

FILLED = """Write a thing, which is long enough to
be filled.

    mobilellama sft export \\
        --checkpoint RUN \\
        --output FOLDER \\
        --push USER/NAME

The paragraph is one.
1. An item stays.

    name    what it means, in words
    other   nothing
    steps:
      - one"""


def test_paragraphs_are_filled_commands_go_on_after_a_backslash_and_rows_in_their_last_column() -> (
    None
):
    assert filled(TEXT, 40) == FILLED


def test_what_is_narrow_enough_and_filled_stays_as_it_is() -> None:
    assert filled(FILLED, 40) == FILLED


def test_marks_of_a_docstring_are_those_of_a_plain_text() -> None:
    assert plain("``run`` or `x`; None takes the run's; Nonesuch") == (
        "'run' or 'x'; null takes the run's; Nonesuch"
    )
