"""mlp2x_gelu: Linear GELU Linear (LLaVA-1.5)."""

from torch import Tensor

from mobilellama.vlm.projectors.projector import Projector, linear_keys


class MLP(Projector):
    """The perceptron alone: as many tokens as patches (LLaVA-1.5, arXiv 2310.03744)."""

    published_keys = linear_keys({"mlp.0": "0", "mlp.2": "2"})

    def forward(self, features: Tensor) -> Tensor:
        """Return the image tokens, (B, P, D)."""
        return self.mlp(features)
