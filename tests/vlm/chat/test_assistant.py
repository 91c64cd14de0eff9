"""Answers about images: those of the parts put together by hand, in batches as alone."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.vlm.chat.assistant import Assistant, AssistantChoice, load, settings_of
from mobilellama.vlm.chat.image_dialogue import ImageDialogue
from mobilellama.vlm.chat.question import Question, Reply
from mobilellama.vlm.data.images import ImageError, read_image
from mobilellama.vlm.formats.stored_model import open_model
from mobilellama.vlm.main import main
from tests.vlm.helpers.assistants import CONTEXT_TOKENS, IMAGE_TOKENS, make_assistant, picture
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.tiny_vlm import make_language_model, make_tower, train_vlm

WHAT = "What is it?"
ASK = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "  # noqa: E501


def asking(*numbers: int, text: str = WHAT) -> Question:
    images = tuple(picture(number) for number in numbers)
    return Question(images=images, text="<image>\n" * len(images) + text)


class ByHand:
    """The model put together from transformers' classes, and asked as the original code asks."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")

        def part(prefix: str) -> dict[str, torch.Tensor]:
            found = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
            return {name: weight.float() for name, weight in found.items()}

        self.tower: Any = CLIPVisionModel(CLIPVisionConfig(**config["vision"])).eval()
        self.tower.load_state_dict(part("vision_tower."), strict=False)
        self.language: Any = LlamaForCausalLM(LlamaConfig(**config["language"])).eval()
        self.language.load_state_dict(part("language_model."))
        self.projector = part("projector.")
        self.tokenizer: Any = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.mean, self.std = (
            torch.tensor(config["images"][name]).view(3, 1, 1) for name in ("mean", "std")
        )
        self.side: int = config["images"]["size_pixels"]

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Padded to a square of the mean's colour, resized, normalised."""
        side = max(image.size)
        colour = tuple(int(255 * value) for value in self.mean.flatten().tolist())
        square = Image.new("RGB", (side, side), colour)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        square = square.resize((self.side, self.side), Image.Resampling.BICUBIC)
        values = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
        values = values.view(self.side, self.side, 3).permute(2, 0, 1).float() / 255
        return (values - self.mean) / self.std

    def features(self, image: Image.Image) -> torch.Tensor:
        """Of the last layer but one, without the class token, through the perceptron."""
        states = self.tower(self.pixels(image)[None], output_hidden_states=True).hidden_states
        its = self.projector
        hidden = states[-2][0, 1:] @ its["mlp.0.weight"].T + its["mlp.0.bias"]
        return torch.nn.functional.gelu(hidden) @ its["mlp.2.weight"].T + its["mlp.2.bias"]

    @torch.no_grad()
    def answer(self, images: list[Image.Image], text: str, *, max_new_tokens: int) -> str:
        """Greedily; the prompt is encoded segment by segment between its images."""
        embed = self.language.get_input_embeddings()
        rows = [embed(torch.tensor([self.tokenizer.bos_id()]))]
        for i, segment in enumerate(f"{ASK}{text} ASSISTANT:".split("<image>")):
            if i:
                rows.append(self.features(images[i - 1]))
            rows.append(embed(torch.tensor(self.tokenizer.encode(segment))))
        embeddings = torch.cat(rows)[None]
        ids = self.language.generate(
            inputs_embeds=embeddings, attention_mask=torch.ones(embeddings.shape[:2]),
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=2, pad_token_id=0,
        )[0]  # fmt: skip
        return self.tokenizer.decode([i for i in ids.tolist() if i > 2]).rstrip("\ufffd").strip()


def test_an_answer_is_that_of_the_parts_put_together_by_hand(
    assistant: Assistant, assistant_folder: Path
) -> None:
    by_hand = ByHand(assistant_folder)
    seen = set()
    for numbers in ((), (0,), (4,), (2, 5), (5, 2)):
        images = [picture(number) for number in numbers]
        text = "<image>\n" * len(images) + WHAT
        expected = by_hand.answer(images, text, max_new_tokens=12)
        assert assistant.answer(images, text, max_new_tokens=12) == expected
        assert assistant.answer(images, WHAT, max_new_tokens=12) == expected
        seen.add(expected)
    assert len(seen) == 5  # the images, and their order, are seen
    text = "First <image> and then <image> again?"
    images = [picture(3), picture(4)]
    expected = by_hand.answer(images, text, max_new_tokens=12)
    assert assistant.answer(images, text, max_new_tokens=12) == expected


def test_a_batch_answers_each_question_as_if_it_were_alone(assistant: Assistant) -> None:
    questions = [
        asking(0),
        asking(text="Who are you and where do you come from?"),
        asking(1, 2, 3),
        asking(text="Why?"),
        asking(4, text="Is there something in it?"),
        asking(5, 6),
        asking(7),
    ]
    alone = [assistant.answer_batch([one], max_new_tokens=15)[0] for one in questions]
    assert len({*alone}) == len(alone)
    assert assistant.answer_batch(questions, max_new_tokens=15) == alone
    assert assistant.answer_batch(questions[::-1], max_new_tokens=15) == alone[::-1]
    only_text = [one for one in questions if not one.images]
    assert assistant.answer_batch(only_text, max_new_tokens=15) == [alone[1], alone[3]]


def test_more_images_than_go_through_the_tower_at_once_stay_in_order(assistant: Assistant) -> None:
    pixels = [assistant.pixels(picture(number)) for number in range(19)]
    together = assistant.features(pixels)
    assert together.shape == (19, IMAGE_TOKENS["mlp2x_gelu"], 64)
    for number in (0, 15, 16, 18):
        alone = assistant.features([pixels[number]])[0]
        torch.testing.assert_close(together[number], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", IMAGE_TOKENS)
def test_both_forms_of_a_folder_answer_alike(
    small_tokenizer: Path, tmp_path: Path, kind: str
) -> None:
    ours = load(make_assistant(tmp_path, small_tokenizer, kind), device="cpu")
    published = load(str(tmp_path / "published"), device="cpu")
    for questions in ([asking(0)], [asking(1, 2), asking()]):
        expected = ours.answer_batch(questions, max_new_tokens=12)
        assert published.answer_batch(questions, max_new_tokens=12) == expected


def test_images_come_as_files_or_decoded_and_become_square_as_asked(
    assistant: Assistant, tmp_path: Path
) -> None:
    wide = Image.new("RGB", (60, 16), "red")
    wide.paste("blue", (0, 0, 20, 16))  # which the square of the centre does not show
    path = tmp_path / "wide.png"
    wide.save(path)
    answers = {
        name: assistant.answer_batch(
            [Question(images=(path,), text=f"<image>\n{WHAT}")],
            max_new_tokens=12,
            aspect_ratio=name,
        )
        for name in ("square", "pad", None)
    }
    assert answers[None] == answers["pad"] != answers["square"]
    assert answers["pad"][0].text == assistant.answer(wide, WHAT, max_new_tokens=12)
    assert answers["pad"][0].text == assistant.answer(str(path), WHAT, max_new_tokens=12)
    assert answers["pad"][0].text == assistant.answer(path.read_bytes(), WHAT, max_new_tokens=12)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"wide\.png: is truncated or damaged"):
        assistant.answer_batch([Question(images=(path,), text="<image>")], max_new_tokens=1)


def test_a_seed_makes_a_drawn_answer_repeatable(assistant: Assistant) -> None:
    warm = Sampling(temperature=1.5)
    one, again, other = (
        assistant.answer(picture(0), WHAT, max_new_tokens=12, sampling=warm, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == again != other


def test_what_cannot_be_asked_is_refused(assistant: Assistant) -> None:
    with pytest.raises(UserError, match="has 1 <image> for 2 images: give it one for each image"):
        assistant.answer([picture(0), picture(1)], f"<image>\n{WHAT}")
    with pytest.raises(UserError, match="has 1 <image> for 0 images"):
        assistant.answer(None, f"<image>\n{WHAT}")
    with pytest.raises(UserError, match="has 0 <image> for 1 images"):
        assistant.answer_batch([Question(images=(picture(0),), text=WHAT)], max_new_tokens=1)
    with pytest.raises(UserError, match="stands in the system text"):
        assistant.answer(picture(0), WHAT, system="See <image>.")
    images = [picture(number) for number in range(12)]
    with pytest.raises(UserError, match=r"makes a prompt of \d+ tokens, and the model's context"):
        assistant.answer(images, WHAT)


def test_an_argument_of_another_kind_is_named(assistant: Assistant) -> None:
    fine: dict[str, Any] = {"images": picture(0), "question": WHAT}
    array, ask = np.asarray(picture(0)), cast(Any, assistant.answer)
    for fields, message in (
        ({"question": None}, "question = null: must be text. Give a string."),
        ({"images": 5}, "images = a int: must be a PIL image, a path, an http(s) address or an"),
        ({"images": array}, "images = a ndarray: must be a PIL image"),
        ({"images": [picture(0), array]}, "images[1] = a ndarray: must be a PIL image"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: must be at least 1. Give 1 or more."),
        ({"max_new_tokens": "9"}, "max_new_tokens = 9: must be a whole number. Give 1 or more."),
        ({"system": 3}, "system = 3: must be text. Give a string, or None."),
        ({"seed": -1}, "seed = -1: must be at least 0. Give 0 or more."),
    ):
        with pytest.raises(ConfigError) as caught:
            ask(**(fine | fields))
        assert str(caught.value).startswith(message)
    with pytest.raises(ConfigError, match="max_new_tokens = 0: must be at least 1"):
        assistant.answer_batch([asking(0)], max_new_tokens=0)


def test_a_choice_that_is_none_is_refused_before_weights_are_read(assistant_folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assistant_folder, quantization="2bit")
    assert str(caught.value) == (
        "quantization = 2bit: must be one of none, 8bit, 4bit. Give one of them; "
        "did you mean '8bit'?"
    )
    with pytest.raises(ConfigError, match="dtype = fp8: must be one of auto, bf16, fp16, fp32"):
        load(assistant_folder, dtype="fp8")


def test_a_published_folder_without_a_tower_is_to_be_imported(
    small_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    make_assistant(tmp_path, small_tokenizer)
    folder = tmp_path / "published"
    [path] = [one for one in folder.glob("*model*") if one.suffix in (".bin", ".safetensors")]
    if path.suffix == ".bin":
        weights = torch.load(path)
        torch.save({n: w for n, w in weights.items() if "vision_tower" not in n}, path)
    else:
        weights = load_file(path)
        left = {n: w for n, w in weights.items() if "vision_tower" not in n}
        save_file(left, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError) as caught:
        load(folder, device="cpu")
    assert str(caught.value) == (
        f"model = {folder}: holds no vision tower: its mm_vision_tower = openai/clip-vit-large-"
        "patch14-336 is no folder here, was not downloaded before, and HF_HUB_OFFLINE forbids "
        "asking the Hub. Import it first: "
        f"'mobilellama vlm import {folder} --vision DIR --output NEW'."
    )


def test_a_question_without_room_is_told_and_the_others_are_answered(
    assistant: Assistant, caplog: pytest.LogCaptureFixture
) -> None:
    """12 images of 16 tokens leave of 256 no room beside the system text."""
    questions = [asking(0), asking(*range(12)), asking(1)]
    answers = assistant.answer_batch(questions, max_new_tokens=12)
    assert answers[1] == Reply(text="", finish="too_long")
    assert [answers[0], answers[2]] == assistant.answer_batch(questions[::2], max_new_tokens=12)
    assert "1 of 3 questions fill the context of 256 tokens" in caplog.text
    nearly = asking(*range(6))
    tokens = len(assistant.tokenizer.prompt([turn_of(nearly)]))
    rest = CONTEXT_TOKENS - tokens
    assert 0 < rest < 100
    [cut] = assistant.answer_batch([nearly], max_new_tokens=10_000)  # ends where the context does
    assert cut.text and cut.finish == "length"


def turn_of(question: Question) -> Any:
    from mobilellama.sft.data.conversation import Turn

    return Turn("user", question.text)


def test_a_head_that_is_the_embedding_is_loaded_once(small_tokenizer: Path, tmp_path: Path) -> None:
    folder = make_assistant(tmp_path, small_tokenizer)
    config = json.loads((folder / "config.json").read_text())
    config["language"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"]
    whole = load(folder_with(weights, folder, tmp_path / "whole", tie=False), device="cpu")
    del weights["language_model.lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tied = load(folder, device="cpu")
    language = tied.model.language_model
    assert language.lm_head.weight is language.model.embed_tokens.weight
    for question in (asking(0), asking()):
        expected = whole.answer_batch([question], max_new_tokens=12)
        assert tied.answer_batch([question], max_new_tokens=12) == expected


def folder_with(weights: dict[str, torch.Tensor], folder: Path, to: Path, *, tie: bool) -> Path:
    """Copy a folder with other weights."""
    shutil.copytree(folder, to)
    copied = {name: weight.clone() for name, weight in weights.items()}
    save_file(copied, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((to / "config.json").read_text())
    config["language"]["tie_word_embeddings"] = tie
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_photographs_lie_as_the_model_was_trained_or_as_it_is_asked(
    assistant_folder: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = picture(3)
    file = tmp_path / "turned.png"
    shown.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    former, asked = (
        load(assistant_folder, device="cpu", orientation=its) for its in (None, "as_shown")
    )
    config = json.loads((assistant_folder / "config.json").read_text())
    config["images"]["orientation"] = "as_shown"
    shutil.copytree(assistant_folder, tmp_path / "new")
    (tmp_path / "new/config.json").write_text(json.dumps(config))
    trained = load(tmp_path / "new", device="cpu")
    upright, sideways = former.pixels(shown), former.pixels(read_image(file))
    assert not np.array_equal(upright, sideways)
    for model, expected in ((former, sideways), (asked, upright), (trained, upright)):
        np.testing.assert_array_equal(model.pixels(read_image(file)), expected)
        np.testing.assert_array_equal(model.read_all([file])[0], expected)
    dialogue = ImageDialogue(trained, sampling=Sampling(), max_new_tokens=4)
    seen = dialogue.show(str(file))
    assert (seen.width, seen.height) == shown.size
    assert torch.equal(seen.features, trained.features([upright]))
    with pytest.raises(ConfigError, match=r"orientation = shown: must be one of as_stored, as_sho"):
        AssistantChoice(model=str(assistant_folder), orientation="shown")  # type: ignore[arg-type]


def test_answers_are_of_the_orientation_that_was_asked_for(assistant_folder: Path) -> None:
    def settings(**fields: Any) -> dict[str, Any]:
        choice = AssistantChoice(model=str(assistant_folder), device="cpu", **fields)
        return settings_of(choice, open_model(str(assistant_folder)))

    assert "orientation" not in settings(), "as in files of answers from before it"
    assert settings(orientation="as_stored") == settings(), "the folder's own, said"
    assert settings(orientation="as_shown") == settings() | {"orientation": "as_shown"}


def test_another_template_asks_otherwise(
    assistant: Assistant, small_tokenizer: Path, tmp_path: Path
) -> None:
    folder = make_assistant(tmp_path, small_tokenizer, template="plain")
    own = load(folder, device="cpu")
    given = load(folder, device="cpu", template="vicuna_v1")
    expected = assistant.answer(picture(0), WHAT, max_new_tokens=12)
    assert given.answer(picture(0), WHAT, max_new_tokens=12) == expected
    assert own.answer(picture(0), WHAT, max_new_tokens=12) != expected
    assert own.tokenizer.stop.ids == {2, own.tokenizer._tokenizer.encode("\n", begins=False)[0]}


def test_what_is_no_model_is_refused_with_a_remedy(
    assistant_folder: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    def message(folder: Path, **fields: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            load(folder, device="cpu", **fields)
        return str(caught.value)

    assert "is not a folder" in message(tmp_path / "absent")
    assert "is neither a vision-language model's folder nor a run" in message(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "has no whole checkpoint" in message(tmp_path / "run")
    assert "did you mean 'vicuna_v1'" in message(assistant_folder, template="vicuna_v2")
    bare = tmp_path / "bare"
    shutil.copytree(assistant_folder, bare)
    (bare / "template.yaml").unlink()
    assert "has no template.yaml. Give --template" in message(bare)
    config = json.loads((bare / "config.json").read_text())
    config["language"]["vocab_size"] = 700
    weights = load_file(bare / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        weights[f"language_model.{name}"] = weights[f"language_model.{name}"][:700].contiguous()
    (bare / "config.json").write_text(json.dumps(config))
    save_file(weights, bare / "model.safetensors", metadata={"format": "pt"})
    assert "has 700 embeddings, but 800 ids in its tokenizer" in message(bare, template="vicuna_v1")
    (bare / "tokenizer.model").unlink()
    assert "holds neither tokenizer.model nor tokenizer.json" in message(bare, template="vicuna_v1")


@pytest.mark.slow
def test_a_run_answers_as_its_export(small_tokenizer: Path, tmp_path: Path) -> None:
    tower = make_tower(tmp_path / "tower")
    language = make_language_model(
        tmp_path / "llm", small_tokenizer, initializer_range=0.4, max_position_embeddings=256
    )
    data, images = write_llava(tmp_path / "data")
    run = tmp_path / "run"
    fields = {"vision": tower, "lora.rank": 4, "lora.alpha": 8, "train.max_steps": 3}
    assert train_vlm(language, data, images, run, fields) == 0
    assert main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "out"),
                 "--dtype", "fp32"]) == 0  # fmt: skip
    of_run, exported = (load(folder, device="cpu") for folder in (run, tmp_path / "out"))
    for (name, one), (other_name, other) in zip(
        of_run.model.named_parameters(), exported.model.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    questions = [asking(0), asking(1, 2), asking()]
    answers = of_run.answer_batch(questions, max_new_tokens=12)
    assert answers == exported.answer_batch(questions, max_new_tokens=12)
    choice = AssistantChoice(model=str(run), device="cpu")
    assert settings_of(choice, open_model(str(run)))["dtype"] == "float32"
    [shard] = sorted((run / "checkpoints").glob("step-3/*.safetensors"))[:1]
    data = bytearray(shard.read_bytes())
    data[-3] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(DataError, match="step-3"):
        load(run, device="cpu")
