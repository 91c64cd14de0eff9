"""A chat folder's model: loaded whole and as asked; what is refused."""

import shutil
from pathlib import Path

import torch

from mobilellama.pretrain.generation.loading import load_model
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.tokenizer import ChatTokenizer
from mobilellama.sft.data.conversation import Turn


def test_a_folder_whose_json_a_windows_editor_saved_is_read_as_before(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "marked"
    shutil.copytree(tiny_chat_model, folder)
    marked = sorted(folder.glob("*.json"))
    for path in marked:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert {path.name for path in marked} >= {"config.json", "tokenizer_config.json"}
    choices = [ModelChoice(model=str(path), device="cpu") for path in (tiny_chat_model, folder)]
    one, other = (ChatTokenizer(choice).prompt([Turn("user", "Hi é")]) for choice in choices)
    assert one == other
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(*(load_model(choice)(input_ids=ids).logits for choice in choices))
