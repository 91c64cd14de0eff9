"""A projector that is not ours, added as anyone would: a class, and its line in the table.

As a program it runs commands of 'mobilellama vlm' with that projector known, one JSON list each.
"""

import json
import sys

from torch import Tensor

from mobilellama.vlm.projectors.projector import Projector
from mobilellama.vlm.projectors.rules import ProjectorRules
from mobilellama.vlm.projectors.table import PROJECTORS


class OneToken(Projector):
    """The mean of all patches: an image is one token."""

    @staticmethod
    def token_side(side: int, rules: ProjectorRules) -> int:
        """Return 1."""
        del side, rules
        return 1

    def forward(self, features: Tensor) -> Tensor:
        """Return the image token, (B, 1, D)."""
        return self.mlp(features).mean(dim=1, keepdim=True)


if __name__ == "__main__":
    # Before a config is imported, as a line of the table is.
    PROJECTORS["one_token"] = "tests.vlm.helpers.added_projector:OneToken"

    from mobilellama.__main__ import main

    codes = []
    for argv in sys.argv[1:]:
        sys.argv = ["mobilellama", "vlm", *json.loads(argv)]
        codes.append(main())
    print("codes", codes)
