"""Encode the conversations of a batch together: labels.py's tokens and labels, in few calls.

sentencepiece takes about 10 us a call and then 4 MB/s. The encoder of ``tokenize`` takes 0.6 s of
CPU time to start and then 40 MB/s, so it starts when a process has as much text as pays for that.
The ids are the same.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import Encoded, Stretch, cut_stretches, join_ids
from mobilellama.sft.data.template import Template
from mobilellama.tokenize.encoding.encoder import Encoder, why_plain
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer

_PLAIN_CHARACTERS = 4 << 20
"""sentencepiece takes as long for so many as the encoder takes to start."""


class BatchLabels:
    """Encodes batches of one run.

    Args:
        template: the run's.
        tokenizer: the run's. Only some sentencepiece models are encoded by the kernel.
    """

    def __init__(self, template: Template, tokenizer: TextTokenizer) -> None:
        self.template, self.tokenizer = template, tokenizer
        self._characters = 0
        self._encoder: Encoder | None = None

    def encode(self, conversations: Sequence[Sequence[Turn]]) -> list[Encoded]:
        """Return what ``labels.encode`` returns for each conversation, with the same errors."""
        cut = [
            cut_stretches(self.template.segments(turns), self.template, self.tokenizer)
            for turns in conversations
        ]
        stretches = [stretch for one in cut for stretch in one]
        self._characters += sum(len(stretch.text) for stretch in stretches)
        ids = iter(self._ids(stretches))
        return [join_ids(one, [next(ids) for _ in one]) for one in cut]

    def _ids(self, stretches: Sequence[Stretch]) -> list[Sequence[int] | NDArray[np.int32]]:
        encoder = self._started()
        found: list[Sequence[int] | NDArray[np.int32]] = [
            [] if stretch.special_id is None else [stretch.special_id] for stretch in stretches
        ]
        for begins in (True, False):
            numbers = [
                i
                for i, stretch in enumerate(stretches)
                if stretch.special_id is None and stretch.begins is begins
            ]
            texts = [stretches[i].text for i in numbers]
            if encoder is None:
                encoded = [self.tokenizer.encode(text, begins=begins) for text in texts]
            else:
                encoded = _parted(*encoder.encode_batch(texts, begins=begins))
            for i, ids in zip(numbers, encoded, strict=True):
                found[i] = ids
        return found

    def _started(self) -> Encoder | None:
        """Return the encoder, if it can encode and there was enough text."""
        if self._encoder is None and self._characters > _PLAIN_CHARACTERS:
            if isinstance(self.tokenizer, Tokenizer) and why_plain(self.tokenizer) is None:
                self._encoder = Encoder(self.tokenizer)
        return self._encoder


def _parted(ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> list[NDArray[np.int32]]:
    """Return the ids of each text, without the EOS that ends it."""
    ends = np.cumsum(lengths, dtype=np.int64)
    whole = ids.astype(np.int32)
    pairs = zip((ends - lengths).tolist(), (ends - 1).tolist(), strict=True)
    return [whole[start:stop] for start, stop in pairs]
