"""Texts -> ids with a tokenizer.json, by the library ``tokenizers``.

The ids are those of transformers' PreTrainedTokenizerFast with ``split_special_tokens``:

1. No begin token and no other token of a template is added. EOS follows each document.
2. A text that spells a special token is encoded as text. A special id from text is an error.
3. Added tokens that the file does not mark special are pieces of text, as runs of spaces are in
   Phi-2's. ``tokenize run`` names them.

Another version of ``tokenizers`` may give other ids, so the plan holds the version.
"""

import os
from importlib.metadata import version
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.format import dtype_for_vocabulary, little_endian
from mobilellama.tokenize.encoding.encoder import Encoder, require_text_ids, with_ends
from mobilellama.tokenizers.corpus_tokenizer import CorpusTokenizer
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer


def tokenizers_version() -> str:
    """Return the installed version of the library that encodes."""
    return version("tokenizers")


class HfEncoder:
    """Encodes batches of documents with one tokenizer.json, on one thread.

    Args:
        tokenizer: the tokenizer, which has an EOS.
    """

    def __init__(self, tokenizer: HfTokenizer) -> None:
        # The library would use a thread for each CPU, in each worker. It reads this at each call.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        assert tokenizer.eos_id is not None
        self.tokenizer = tokenizer
        self.dtype = little_endian(dtype_for_vocabulary(tokenizer.vocab_size))
        self._eos_id = tokenizer.eos_id
        self._from_text = np.ones(tokenizer.vocab_size, bool)
        for special in tokenizer.specials.values():
            if not special.read_from_text:
                self._from_text[special.id] = False
        if (unknown := tokenizer.unknown_id) is not None:
            self._from_text[unknown] = False

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
        """Encode documents.

        Args:
            texts: without lone surrogates.

        Returns:
            ids: all documents' ids, one document after another, each ended by EOS.
            lengths: ids of each document, EOS included.

        Raises:
            DataError: a text became an id that no text can have.
        """
        encoded = self.tokenizer.encode_batch(texts)
        lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
        flat = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum(dtype=np.int64)))
        require_text_ids(flat, self._from_text)
        return with_ends(flat, lengths, self._eos_id, self.dtype)


AnyEncoder = Encoder | HfEncoder


def make_encoder(tokenizer: CorpusTokenizer, *, plain: bool = False) -> AnyEncoder:
    """Return the encoder of a tokenizer.

    Args:
        tokenizer: of either kind.
        plain: of ``Encoder``.
    """
    if isinstance(tokenizer, Tokenizer):
        return Encoder(tokenizer, plain=plain)
    return HfEncoder(tokenizer)
