"""What makes a folder a chat model's: the template in the tokenizer's files, and where to stop."""

from pathlib import Path

from mobilellama.files.atomic import write_json
from mobilellama.files.pretrained import load_tokenizer
from mobilellama.pretrain.hf.config import generation_config
from mobilellama.pretrain.hf.export_check import check_tokenizer
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode_prompt, stop_ids
from mobilellama.sft.data.template import Template
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

_QUESTION, _ANSWER = (
    Turn("user", "What is a  list?\n"),
    Turn("assistant", " One\n\tof naïve 日本 🙂."),
)
_PROBES = ((_QUESTION,), (_QUESTION, _ANSWER, Turn("user", "And then?")))


def write_chat_files(
    folder: Path, tokenizer: TextTokenizer, template: Template, *, max_length_tokens: int
) -> None:
    """Write the tokenizer's files with the chat template, and generation_config.json.

    The tokenizer's end of text becomes the template's end of an answer where that is a special
    token: programs that ask for nothing else stop there.
    """
    tokenizer.write_hf(
        folder,
        max_length_tokens=max_length_tokens,
        add_bos=template.bos,
        chat_template=template.jinja(),
        eos_token=end_token(template, tokenizer),
    )
    values = generation_config(
        start_id=tokenizer.bos_id,
        eos_ids=stop_ids(template, tokenizer),
        pad_id=tokenizer.pad_id,
    )
    write_json(folder / "generation_config.json", values)


def end_token(template: Template, tokenizer: TextTokenizer) -> str | None:
    """Return the special token that ends an answer; None where text does."""
    specials = (token for token in template.specials if token in template.end)
    return next((token for token in specials if token in tokenizer.specials), None)


def check_chat_ids(folder: Path, tokenizer: TextTokenizer, template: Template) -> None:
    """Raise RuntimeError unless transformers gives the training's ids for texts and prompts."""
    check_tokenizer(folder, tokenizer, add_bos=template.bos)
    loaded = load_tokenizer(folder)
    for turns in _PROBES:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        expected = encode_prompt(template, tokenizer, turns).tolist()
        found = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        if found != expected:
            raise RuntimeError(
                f"{folder}: apply_chat_template gives {found} for {messages}, not {expected}"
            )
