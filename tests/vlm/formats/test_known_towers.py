"""The vision towers that are known by name."""

from typing import Any

from transformers import CLIPVisionConfig, LlavaConfig, PaliGemmaConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mobilellama.vlm.formats.known_towers import KNOWN_TOWERS, find_known


def test_known_towers_are_as_transformers_has_them() -> None:
    known = {its.name.rpartition("/")[2]: its for its in KNOWN_TOWERS}
    assert len(known) == 6
    base = CLIPVisionConfig().to_dict()  # openai/clip-vit-base-patch32, as its docstring says
    large = LlavaConfig().to_dict()["vision_config"]  # LLaVA-1.5's
    siglip = PaliGemmaConfig().to_dict()["vision_config"]  # so400m at 224 pixels
    expected: dict[str, dict[str, Any]] = {
        "clip-vit-base-patch32": base,
        "clip-vit-base-patch16": base | {"patch_size": 16},
        "clip-vit-large-patch14-336": large,
        "clip-vit-large-patch14": large | {"image_size": 224},
        # Its class default has the activation and epsilon; the 384-pixel one has 4,304.
        "siglip-so400m-patch14-384": siglip | {"image_size": 384, "intermediate_size": 4304},
    }
    for name, values in expected.items():
        its = known[name].config
        assert its == {key: values[key] for key in its}, name
    huge = known["CLIP-ViT-H-14-laion2B-s32B-b79K"].config
    sizes = ("hidden_size", "num_attention_heads", "num_hidden_layers", "hidden_act")
    assert [huge[name] for name in sizes] == [1280, 16, 32, "gelu"]
    for its in KNOWN_TOWERS:
        is_clip = its.config["model_type"] == "clip_vision_model"
        processor: Any = CLIPImageProcessorPil if is_clip else SiglipImageProcessorPil
        assert list(its.mean) == list(processor.image_mean)
        assert list(its.std) == list(processor.image_std)


def test_a_tower_is_known_by_its_whole_name_and_all_of_its_sizes() -> None:
    for known in KNOWN_TOWERS:
        its = dict(known.config)
        assert find_known(known.name, its) is known
        last = known.name.rpartition("/")[2]
        assert find_known(f"/models/{last}/", its) is known
        assert find_known(f"mine/{last}-finetuned", its) is None
        assert find_known(f"/models/{last}/checkpoint-5", its) is None
        for name in ("hidden_size", "num_hidden_layers", "patch_size", "intermediate_size"):
            size = its[name]
            assert isinstance(size, int)
            assert find_known(known.name, its | {name: size + 2}) is None
    assert find_known(None, {}) is None
