"""What all engines share: which precision auto means."""

import pytest

from mobilellama.pretrain.engines.engine import computes_bf16


@pytest.mark.parametrize(
    ("cpu", "computes"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),  # imitated, slowly
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"avx2": True}, False),
    ],
)
def test_a_cpu_computes_bf16_only_with_instructions_of_its_own(
    cpu: dict[str, bool], computes: bool
) -> None:
    assert computes_bf16(cpu) is computes
