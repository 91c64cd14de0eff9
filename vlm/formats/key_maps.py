"""Names of weights: ours beside those of the published MobileVLM's files.

    ours                        published
    language_model.X            X                                              (Llama's names)
    vision_tower.X              model.vision_tower.vision_tower.vision_model.X
    projector.X                 model.mm_projector.Y, by the projector's kind

Source: the state dicts of MobileVLM (Meituan-AutoML/MobileVLM at 688fdec) and of LLaVA.
"""

from collections.abc import Iterable, Mapping

from mobilellama.config import DataError
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER
from mobilellama.vlm.projectors.table import PROJECTORS, find_projector

PUBLISHED_TOWER = "model.vision_tower.vision_tower.vision_model."
PUBLISHED_PROJECTOR = "model.mm_projector."

# Buffers that older versions of transformers stored; ours are made from the config.
_IGNORED = (".rotary_emb.inv_freq", "embeddings.position_ids")


def published_projectors() -> dict[str, Mapping[str, str]]:
    """Return the published name of each weight by ours, by the projector's kind.

    Names are those after ``model.mm_projector.`` and after ``projector.``. Kinds that no other
    project has are left out.
    """
    known = {kind: find_projector(kind).published_keys for kind in PROJECTORS}
    return {kind: keys for kind, keys in known.items() if keys is not None}


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
    return PUBLISHED_PROJECTOR + published_projectors()[projector][name.removeprefix(PROJECTOR)]


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
    for kind, keys in published_projectors().items():
        if found == {*keys.values()}:
            return kind
    shown = ", ".join(sorted(found)[:3]) or "none"
    raise DataError(
        f"{where}: its {len(found)} weights of a projector ({shown}, ...) are not those of "
        f"{' or '.join(published_projectors())}"
    )


def after_prefix(name: str) -> str:
    """Return what follows ``mm_projector.`` in a published name, whatever stands before it."""
    return name.partition("mm_projector.")[2]
