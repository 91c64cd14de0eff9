"""What every kind of tokenizer is held to: that it is the one something was made with."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenizers.tokenizer import Tokenizer


def test_another_tokenizer_than_the_datasets_is_refused(small_tokenizer: Path) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    tokenizer.require_sha256(tokenizer.sha256, field="tokenizer", owner="it")
    with pytest.raises(ConfigError, match="but the run was made with 000000000000"):
        tokenizer.require_sha256("0" * 64, field="tokenizer", owner="the run")
