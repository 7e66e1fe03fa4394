"""The instance head: a view-independent feature at every 3D point, composited along the ray, then classified."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

from instance_nerfstudio.hash_grids.hash_grid import use_hash_grids
from instance_nerfstudio.hash_grids.implementation import Implementation, nerfstudio_implementation
from instance_nerfstudio.instance_classifier import InstanceClassifier


@dataclass
class InstanceHeadConfig(InstantiateConfig):
    """Size of the instance head."""

    _target: type = field(default_factory=lambda: InstanceHead)
    """Target class to instantiate."""
    num_levels: int = 16
    """Levels of the head's own hash grid."""
    base_res: int = 16
    """Resolution of its coarsest level."""
    max_res: int = 2048
    """Resolution of its finest level."""
    log2_hashmap_size: int = 19
    """Rows per level, as a power of two."""
    features_per_level: int = 2
    """Features per level."""
    hidden_dim: int = 64
    """Width of both layers of the MLP, and of the feature that is composited."""


class InstanceHead(InstanceClassifier):
    """Instance field of Instance-NeRF (Liu et al. 2023, section 3.3): (position, geometry feature) -> K+1 logits.

    The hidden features of the samples are composited, and classified once per ray.

    Args:
        config: size of the head.
        geometry_dim: width of the geometry feature that comes with each position.
        instance_ids: ids that occur in the masks, ascending, with background 0 first.
        implementation: what computes the hash grid and the MLP; "triton" is torch for inputs on a CPU.
    """

    def __init__(
        self,
        config: InstanceHeadConfig,
        geometry_dim: int,
        instance_ids: Int[Tensor, " classes"],
        implementation: Implementation = "torch",
    ) -> None:
        super().__init__(config.hidden_dim, instance_ids)
        self.config = config
        theirs = nerfstudio_implementation(implementation)
        self.encoding = HashEncoding(
            num_levels=config.num_levels,
            min_res=config.base_res,
            max_res=config.max_res,
            log2_hashmap_size=config.log2_hashmap_size,
            features_per_level=config.features_per_level,
            implementation=theirs,
        )
        use_hash_grids(self.encoding, input_gradients=False, fused=implementation == "triton")
        self.mlp = MLP(
            in_dim=self.encoding.get_out_dim() + geometry_dim,
            num_layers=2,
            layer_width=config.hidden_dim,
            out_dim=config.hidden_dim,
            activation=nn.ReLU(),
            out_activation=nn.ReLU(),
            implementation=theirs,
        )

    def forward(
        self, positions: Float[Tensor, "*batch 3"], geometry: Float[Tensor, "*batch geometry"]
    ) -> Float[Tensor, "*batch hidden"]:
        """Hidden features at positions in [0, 1]^3 (nerfacto's contracted, normalised frame)."""
        encoded = self.encoding(positions.reshape(-1, 3))
        hidden = self.mlp(torch.cat([encoded.float(), geometry.reshape(-1, geometry.shape[-1]).float()], dim=-1))
        return hidden.view(*positions.shape[:-1], -1)
