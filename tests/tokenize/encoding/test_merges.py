from itertools import pairwise
from pathlib import Path

import numpy as np

from mobilellama.tokenize.encoding.memo import ID_BITS
from mobilellama.tokenize.encoding.merges import MIX, Merges, read_merges
from mobilellama.tokenizers.tokenizer import Tokenizer


def look_up(merges: Merges, left: int, right: int) -> int:
    """Find a pair as the kernel does: from its place on, until a free one; -1: not there."""
    pair = left << ID_BITS | right
    place = (pair * MIX & (1 << 64) - 1) >> int(merges.shift)
    while entry := int(merges.table[place]):
        if entry >> ID_BITS == pair:
            return entry & (1 << ID_BITS) - 1
        place = (place + 1) % len(merges.table)
    return -1


def test_the_table_joins_exactly_the_pairs_that_make_a_piece(small_tokenizer: Path) -> None:
    pieces = (tokenizer := Tokenizer(small_tokenizer)).normal_pieces
    merges = read_merges(tokenizer)
    pairs = 0
    for left, i in pieces.items():
        for right, j in pieces.items():
            if left + right in pieces or (i + j) % 7 == 0:
                assert look_up(merges, i, j) == pieces.get(left + right, -1)
            pairs += left + right in pieces
    assert pairs > 500 and np.count_nonzero(merges.table) == pairs
    assert 2 * pairs <= len(merges.table)


def test_characters_and_bytes_have_their_pieces_ids(small_tokenizer: Path) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    merges = read_merges(tokenizer)
    ids = {piece.piece: i for i, piece in enumerate(tokenizer.proto.pieces)}
    assert merges.byte_ids.tolist() == [ids[f"<0x{byte:02X}>"] for byte in range(256)]
    assert merges.character_ids[ord(" ")] == ids["▁"]
    assert merges.character_ids[ord("e")] == ids["e"]
    assert merges.character_ids[0x10FFFF] == -1


def test_ranks_follow_the_scores_and_equal_scores_have_equal_ranks(small_tokenizer: Path) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    tokenizer.proto.pieces[500].score = tokenizer.proto.pieces[600].score
    ranks = read_merges(tokenizer).ranks
    assert ranks[500] == ranks[600]
    scored = sorted(
        (-piece.score, rank) for piece, rank in zip(tokenizer.proto.pieces, ranks, strict=True)
    )
    for (score, rank), (next_score, next_rank) in pairwise(scored):
        assert (score < next_score) == (rank < next_rank)
