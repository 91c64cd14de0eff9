"""Names of weights: ours beside those of the published MobileVLM's files.

    ours                        published
    language_model.X            X                                              (Llama's names)
    vision_tower.X              model.vision_tower.vision_tower.vision_model.X
    projector.X                 model.mm_projector.Y, by the projector's kind

Source: the state dicts of MobileVLM (Meituan-AutoML/MobileVLM at 688fdec) and of LLaVA.
"""

from collections.abc import Iterable

from mobilellama.config import DataError
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER

PUBLISHED_TOWER = "model.vision_tower.vision_tower.vision_model."
PUBLISHED_PROJECTOR = "model.mm_projector."

# Buffers that older versions of transformers stored; ours are made from the config.
_IGNORED = (".rotary_emb.inv_freq", "embeddings.position_ids")

_LDP_BLOCK = {
    "depthwise.weight": "0.0.weight",
    "norm1.weight": "0.1.weight",
    "norm1.bias": "0.1.bias",
    "squeeze.reduce.weight": "1.fc1.weight",
    "squeeze.reduce.bias": "1.fc1.bias",
    "squeeze.expand.weight": "1.fc2.weight",
    "squeeze.expand.bias": "1.fc2.bias",
    "pointwise.weight": "2.0.weight",
    "norm2.weight": "2.1.weight",
    "norm2.bias": "2.1.bias",
}


def _linears(prefixes: dict[str, str]) -> dict[str, str]:
    return {
        f"{ours}.{leaf}": f"{theirs}.{leaf}"
        for ours, theirs in prefixes.items()
        for leaf in ("weight", "bias")
    }


PROJECTOR_KEYS: dict[str, dict[str, str]] = {
    # mlp.0 and mb_block.0 are identities there, which have no weights.
    "ldpnet": {
        **_linears({"mlp.0": "model.mlp.1", "mlp.2": "model.mlp.3"}),
        **{
            f"blocks.{block}.{ours}": f"model.mb_block.{block + 1}.block.{theirs}"
            for block in (0, 1)
            for ours, theirs in _LDP_BLOCK.items()
        },
    },
    "ldpnetv2": _linears({"mlp.0": "mlp.mlp.0", "mlp.2": "mlp.mlp.2", "position": "peg.peg.0"}),
    "mlp2x_gelu": _linears({"mlp.0": "0", "mlp.2": "2"}),
}
"""Names after ``projector.`` and after ``model.mm_projector.``, by the projector's kind."""


def published_name(name: str, projector: str) -> str:
    """Return the published name of one of our parameters.

    Args:
        name: ours.
        projector: the projector's kind.
    """
    if name.startswith(LANGUAGE):
        return name.removeprefix(LANGUAGE)
    if name.startswith(TOWER):
        return PUBLISHED_TOWER + name.removeprefix(TOWER)
    assert name.startswith(PROJECTOR), name
    return PUBLISHED_PROJECTOR + PROJECTOR_KEYS[projector][name.removeprefix(PROJECTOR)]


def is_ignored(name: str) -> bool:
    """Whether a stored tensor is no weight but a table that the config decides."""
    return name.endswith(_IGNORED)


def projector_kind(names: Iterable[str], where: str) -> str:
    """Return the kind of projector that published names belong to.

    Args:
        names: of a whole model or of mm_projector.bin.
        where: the file, for the message.

    Raises:
        DataError: they are no known projector's.
    """
    found = {after_prefix(name) for name in names if "mm_projector." in name}
    for kind, keys in PROJECTOR_KEYS.items():
        if found == {*keys.values()}:
            return kind
    shown = ", ".join(sorted(found)[:3]) or "none"
    raise DataError(
        f"{where}: its {len(found)} weights of a projector ({shown}, ...) are those of none of "
        f"{', '.join(PROJECTOR_KEYS)}"
    )


def after_prefix(name: str) -> str:
    """Return what follows ``mm_projector.`` in a published name, whatever stands before it."""
    return name.partition("mm_projector.")[2]
