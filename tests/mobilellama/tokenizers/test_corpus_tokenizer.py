"""Which tokenizer a corpus is encoded with, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers

from mobilellama.config import ConfigError
from mobilellama.tokenizers.corpus_tokenizer import open_corpus_tokenizer, why_lossy
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.opening import WrongIdsError
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.corpus_tokenizers import LITERATURE, read, write_llama3, write_qwen
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.mobilellama.tokenizers.conftest import copied


def test_text_is_tokenised_with_a_folders_sentencepiece_model_and_added_tokens_are_told(
    small_tokenizer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = Tokenizer(small_tokenizer)
    model.write_hf(tmp_path, max_length_tokens=64, add_bos=True)
    for path in (tmp_path / "tokenizer.model", small_tokenizer, tmp_path):
        opened = open_corpus_tokenizer(path)
        assert isinstance(opened, Tokenizer) and opened.model_bytes == model.model_bytes
    used = f"{tmp_path}/tokenizer.model is used, not tokenizer.json beside it"
    assert caplog.messages == [used]
    (tmp_path / "added_tokens.json").write_text('{"<|end|>": 800, "<s>": 1}')
    assert open_corpus_tokenizer(tmp_path).sha256 == model.sha256
    said = f"{tmp_path} adds <|end|> to tokenizer.model: text is tokenised without them"
    assert caplog.messages[1:] == [used, said]


def test_a_folder_of_two_tokenizers_is_refused_and_each_file_opens(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    folder = write_qwen(tmp_path / "t")
    Tokenizer(small_tokenizer).save(folder)
    with pytest.raises(ConfigError, match=r"holds two tokenizers: tokenizer\.model has '.*' as id"):
        open_corpus_tokenizer(folder)
    assert isinstance(open_corpus_tokenizer(folder / "tokenizer.model"), Tokenizer)
    assert isinstance(open_corpus_tokenizer(folder / "tokenizer.json"), HfTokenizer)


def test_a_tokenizer_model_of_another_kind_gives_way_to_the_json(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = write_llama3(tmp_path / "t")
    (folder / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # Llama 3's own, of tiktoken
    opened = open_corpus_tokenizer(folder)
    assert isinstance(opened, HfTokenizer) and opened.eos_token == "<|end_of_text|>"
    assert "tokenizer.model is no sentencepiece model: tokenizer.json is used" in caplog.messages


def test_the_end_of_documents_is_told_and_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = write_qwen(tmp_path / "t", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    before = HfTokenizer(folder)
    opened = open_corpus_tokenizer(folder)
    ends = before.specials["<|endoftext|>"].id
    assert (opened.eos_id, opened.sha256) == (ends, before.sha256)
    assert caplog.messages[0] == (
        f"{folder}/tokenizer.json: documents end with <|endoftext|> (id {ends}), not with "
        "<|im_end|>, the eos_token beside it"
    )
    assert caplog.messages[1].endswith(
        "does not mark <tool_call>, <|fim_prefix|> special: text that spells them gets their ids"
    )
    assert "changes text: 'e\\u0301" in caplog.messages[2]  # NFC
    opened.save(tmp_path)
    saved = open_corpus_tokenizer(tmp_path)
    assert (saved.eos_id, saved.sha256, saved.pad_id) == (ends, before.sha256, before.pad_id)
    config = json.loads((tmp_path / "tokenizer/tokenizer_config.json").read_text())
    theirs = json.loads((folder / "tokenizer_config.json").read_text())
    assert config == theirs | {"eos_token": "<|endoftext|>"}
    assert open_corpus_tokenizer(folder, eos_token="<|im_end|>").eos_id == before.eos_id


def test_a_sentencepiece_model_has_its_own_end(small_tokenizer: Path) -> None:
    assert open_corpus_tokenizer(small_tokenizer, eos_token="</s>").eos_id == 2
    with pytest.raises(ConfigError, match=r"eos_token = <s>: is not the end of .*, or give </s>\."):
        open_corpus_tokenizer(small_tokenizer, eos_token="<s>")


def trained(model: Any, trainer: Any) -> dict[str, Any]:
    tokenizer: Any = FastTokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(LITERATURE, trainer)
    return json.loads(tokenizer.to_str())


def test_tokenizers_that_lose_text_are_refused(tmp_path: Path) -> None:
    word_pieces = trained(
        models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(special_tokens=["[UNK]"])
    )
    unigram = trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=200))
    bpe = trained(models.BPE(), trainers.BpeTrainer(vocab_size=200))
    bytewise = read(write_qwen(tmp_path / "qwen"))
    del bytewise["model"]["vocab"]["Ġ"]
    rules = {
        "is a WordPiece tokenizer, which loses the characters that its vocabulary lacks":
            word_pieces,
        "has no tokens for bytes, so that characters that its vocabulary lacks are lost": unigram,
        "lacks the tokens of 1 of the 256 bytes, so that characters are lost": bytewise,
    }  # fmt: skip
    for rule, content in rules.items():
        assert why_lossy(content) == rule  # pyright: ignore[reportArgumentType]
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe))
    with pytest.raises(ConfigError, match=r"json: has no tokens for bytes, .*\. Give a byte-level"):
        open_corpus_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_lines", "prepend", "first"])
def test_tokenizers_with_bytes_lose_nothing(kind: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "t", kind, eos="</s>")
    assert why_lossy(HfTokenizer(folder).content) is None
    text = "汉字 👩‍👩‍👧 \x00 \U0010ffff"
    opened = open_corpus_tokenizer(folder)
    assert opened.decode(opened.encode(text, begins=True)).strip() == text


def test_what_transformers_5_made_of_a_sentencepiece_model_is_corrected_or_refused(
    saved: Path, spaces_last: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "def f(x):\n    return x"
    folder = copied(saved, tmp_path / "a", model=spaces_last)
    (folder / "tokenizer.model").rename(folder / "kept")
    with pytest.raises(WrongIdsError, match=r"has lost the order .*--tokenizer_as_is true"):
        open_corpus_tokenizer(folder)
    wrong = open_corpus_tokenizer(folder, as_is=True)
    (folder / "kept").rename(folder / "tokenizer.model")
    expected = Tokenizer(spaces_last).encode(text, begins=True)
    assert open_corpus_tokenizer(folder).encode(text, begins=True) == expected
    corrected = open_corpus_tokenizer(folder / "tokenizer.json")
    assert corrected.encode(text, begins=True) == expected != wrong.encode(text, begins=True)
    assert any("as its model does: corrected" in message for message in caplog.messages)
    with pytest.raises(WrongIdsError, match="its model may have learnt either"):
        open_corpus_tokenizer(folder / "tokenizer.json", trained=True)


def test_what_holds_no_tokenizer_is_refused_with_the_remedy(tmp_path: Path) -> None:
    remedy = (
        "Give a sentencepiece .model file, a tokenizer.json, or a folder or a model on the Hub "
        "that holds one of them."
    )
    (tmp_path / "notes.txt").write_text("a, b")
    for name, rule in (
        ("gone", "is neither a file nor a folder"),
        ("notes.txt", "is not a sentencepiece model"),
    ):
        with pytest.raises(ConfigError) as caught:
            open_corpus_tokenizer(tmp_path / name)
        assert str(caught.value) == f"tokenizer = {tmp_path / name}: {rule}. {remedy}"
    with pytest.raises(ConfigError, match=r"holds neither tokenizer\.model nor tokenizer\.json"):
        open_corpus_tokenizer(tmp_path)
    for content in ("{", "[]", "{}", '{"model": {"type": "BPE", "vocab": 5, "merges": []}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ConfigError, match=r"tokenizer\.json: is not (JSON|a JSON|a tokenizer)"):
            open_corpus_tokenizer(tmp_path)
