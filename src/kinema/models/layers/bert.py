"""BERT-style pooling: a class token and the features of a clip's moments attend to each other.

Kalfaoglu et al., "Late Temporal Modeling in 3D CNN Architectures with BERT for Action Recognition", ECCV workshops
2020; the layer is that of Devlin et al., "BERT", NAACL 2019. Deviations: no token is masked in training;
positions begin with a deviation of 1, not 0.02.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least
from kinema.types import ConfigError


class BertPool(nn.Module):
    """Learned positions, a class token, and encoder layers that normalise behind each sum; the class token's answer.

    Args:
        num_inputs: Length of a moment's feature, and of the answer.
        num_tokens: Moments per clip at most: each has a position of its own.
        num_layers: Encoder layers.
        num_heads: Heads of their attention.
        dropout: Within the layers.

    Raises:
        ConfigError: The feature cannot be shared among so many heads, or there is no layer.
    """

    def __init__(
        self, num_inputs: int, *, num_tokens: int, num_layers: int = 1, num_heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        at_least(1, num_layers=num_layers)
        if num_heads < 1 or num_inputs % num_heads:
            raise ConfigError(f"model.num_heads: features of {num_inputs} numbers are not shared by {num_heads} heads")
        self.num_features = num_inputs
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, num_inputs))
        # As large as features are, which in BERT are learned beside them and as small: see `layers.transformer`.
        self.positions = nn.Parameter(torch.randn(1, num_tokens + 1, num_inputs))
        self.norm = nn.LayerNorm(num_inputs, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                num_inputs,
                num_heads,
                4 * num_inputs,
                dropout,
                activation="gelu",
                layer_norm_eps=1e-12,
                batch_first=True,
            )
            for _ in range(num_layers)
        )

    def forward(self, features: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        hidden = torch.cat([self.class_token.expand(len(features), -1, -1), features], dim=1)
        hidden = self.dropout(self.norm(hidden + self.positions[:, : hidden.shape[1]]))
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden[:, 0]
