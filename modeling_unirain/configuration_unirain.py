"""UniRain model configuration."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checkpoint_unirain import ResolvesCheckpointNames


NAMED_SIZES = {
    # The released size, designed for a laptop CPU: convolutions throughout, few channels at full resolution.
    "unirain": {"modulation": True},
    # A reconstruction matched in size to the paper's network (24.4 M parameters, 126.5 G multiply-accumulates at
    # 3 x 256 x 256). Restormer's skeleton, which the authors' code descends from; not "the authors' network".
    "unirain-base": {
        "mixer_type": "attention",
        "encoder_hidden_sizes": [48, 96, 192],
        "encoder_depths": [4, 6, 6],
        "latent_hidden_size": 384,
        "latent_depth": 8,
        "decoder_hidden_sizes": [192, 96, 96],
        "decoder_depths": [6, 6, 4],
        "num_attention_heads": [1, 2, 4, 8],
        "refinement_depth": 4,
        "encoder_expansion": 1.0,
        "decoder_expansion": 1.0,
        "feed_forward_expansion": 2.0,
    },
    # For tests: the released design, as small as it goes.
    "unirain-tiny": {
        "encoder_hidden_sizes": [8, 12],
        "encoder_depths": [1, 1],
        "latent_hidden_size": 16,
        "latent_depth": 1,
        "decoder_hidden_sizes": [12, 8],
        "decoder_depths": [1, 1],
        "refinement_depth": 1,
        "modulation": True,
    },
}


@strict
class UniRainConfig(ResolvesCheckpointNames, PreTrainedConfig):
    r"""
    What changes the weights or the forward pass of [`UniRainForImageDeraining`]. The defaults are the released size
    without its modulation, as weights from before it have none; [`UniRainConfig.from_name`] gives the named sizes.
    Levels are ordered as the data meets them: the encoder's from fine to coarse, the decoder's from coarse to fine.

    Args:
        num_channels (`int`): Channels of the images; the image processor and the pipeline give 3.
        mixer_type (`str`): What mixes positions before each feed-forward: `"convolution"` (NAFNet's gated depth-wise
            convolution) or `"attention"` (Restormer's attention across channels).
        encoder_hidden_sizes, encoder_depths (`list[int]`): Channels and MoE blocks of each encoder level.
        latent_hidden_size, latent_depth (`int`): Channels and dense blocks of the coarsest level.
        decoder_hidden_sizes, decoder_depths (`list[int]`): Channels and MoE blocks of each decoder level.
        refinement_depth (`int`): Dense blocks behind the decoder, at its last level's size.
        num_attention_heads (`list[int]`): Heads per level and of the latent; used by `mixer_type="attention"` only.
        expert_types (`list[str]`): One entry an expert, the same in every block: what its gate sees. `"local"`,
            `"directional"` or `"regional"`, see [`UniRainExpert`].
        encoder_routing, decoder_routing (`str`): `"soft"` or `"hard"`. The paper's asymmetric design is soft in the
            encoder and hard in the decoder (section 3); the other three combinations serve its ablation.
        num_experts_per_tok (`int`): k of the hard router. The paper's figure switches on one of three.
        modulation (`bool`): Whether the image's average features scale and shift what the experts give, see
            [`UniRainModulation`]. Not in the paper.
        router_noise_std (`float`): Standard deviation of the noise on the pooled features in training.
        encoder_expansion, decoder_expansion (`float`): Width of one expert over its block's channels.
        feed_forward_expansion (`float`): Width of the dense feed-forward of latent and refinement.
        layer_norm_eps (`float`): Added to the variance in the normalisations over channels.
    """

    model_type = "unirain"

    num_channels: int = 3
    mixer_type: Literal["convolution", "attention"] = "convolution"
    encoder_hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 64, 128)
    encoder_depths: list[int] | tuple[int, ...] = (1, 2, 3, 4)
    latent_hidden_size: int = 192
    latent_depth: int = 4
    decoder_hidden_sizes: list[int] | tuple[int, ...] = (128, 64, 32, 16)
    decoder_depths: list[int] | tuple[int, ...] = (4, 3, 2, 1)
    refinement_depth: int = 1
    num_attention_heads: list[int] | tuple[int, ...] | None = None
    expert_types: list[str] | tuple[str, ...] = ("local", "directional", "regional")
    encoder_routing: Literal["soft", "hard"] = "soft"
    decoder_routing: Literal["soft", "hard"] = "hard"
    num_experts_per_tok: int = 1
    modulation: bool = False
    router_noise_std: float = 0.01
    encoder_expansion: float = 0.5
    decoder_expansion: float = 1.5
    feed_forward_expansion: float = 1.5
    layer_norm_eps: float = 1e-6

    @classmethod
    def from_name(cls, name: str, **overrides) -> "UniRainConfig":
        """One of the named sizes: `"unirain"`, `"unirain-base"` or `"unirain-tiny"`, with fields to override."""
        if name not in NAMED_SIZES:
            raise ValueError(f"There is no size called '{name}'; the sizes are {', '.join(NAMED_SIZES)}.")
        unknown = sorted(set(overrides) - set(cls.__dataclass_fields__))
        if unknown:  # which the config would hold as attributes that nobody reads
            raise ValueError(f"There is no field `{unknown[0]}` to override.")
        return cls(**{**NAMED_SIZES[name], **overrides})

    @property
    def num_experts(self) -> int:
        return len(self.expert_types)

    @property
    def num_routers(self) -> int:
        """Routers in order of execution: one a MoE block, the encoder's first."""
        return sum(self.encoder_depths) + sum(self.decoder_depths)

    @property
    def router_sizes(self) -> list[int]:
        """Channels that each router averages, in the same order."""
        sizes = [*self.encoder_hidden_sizes, *self.decoder_hidden_sizes]
        depths = [*self.encoder_depths, *self.decoder_depths]
        return [size for size, depth in zip(sizes, depths, strict=True) for _ in range(depth)]

    @property
    def size_divisor(self) -> int:
        """Height and width must be multiples of this: the latent's stride, and the coarsest regional expert's."""
        return 2 ** (len(self.encoder_depths) + 1)

    @property
    def feature_size(self) -> int:
        """Length of what `get_image_features` returns: mean and deviation of every channel of encoder and latent."""
        return 2 * (sum(self.encoder_hidden_sizes) + self.latent_hidden_size)

    def validate_levels(self):
        """Every level needs a size and a depth, and the decoder climbs the stairs that the encoder went down."""
        lengths = {
            "encoder_hidden_sizes": len(self.encoder_hidden_sizes),
            "encoder_depths": len(self.encoder_depths),
            "decoder_hidden_sizes": len(self.decoder_hidden_sizes),
            "decoder_depths": len(self.decoder_depths),
        }
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ValueError(
                f"Encoder and decoder need one size and one depth per level, at least one; got {lengths}."
            )
        counts = {
            "num_channels": [self.num_channels],
            "encoder_hidden_sizes": self.encoder_hidden_sizes,
            "encoder_depths": self.encoder_depths,
            "latent_hidden_size": [self.latent_hidden_size],
            "decoder_hidden_sizes": self.decoder_hidden_sizes,
            "decoder_depths": self.decoder_depths,
        }
        for name, values in counts.items():
            if any(value < 1 for value in values):
                raise ValueError(f"`{name}` must be positive, got {values}.")
        downsampled = [*self.encoder_hidden_sizes[1:], self.latent_hidden_size]
        if any(size % 4 for size in downsampled):
            raise ValueError(
                f"The encoder's sizes after the first and `latent_hidden_size` must be multiples of 4, got {downsampled}."
            )
        if min(self.latent_depth, self.refinement_depth) < 0:
            raise ValueError("`latent_depth` and `refinement_depth` cannot be negative.")
        smallest = min(*self.encoder_hidden_sizes, *self.decoder_hidden_sizes, self.latent_hidden_size)
        for name in ("encoder_expansion", "decoder_expansion", "feed_forward_expansion"):
            expansion = getattr(self, name)
            if not 1 <= smallest * expansion < math.inf:  # NaN fails this
                raise ValueError(f"`{name}` must leave at least one of {smallest} channels, got {expansion}.")

    def validate_attention(self):
        """Heads divide channels, at every level that attends."""
        if self.mixer_type != "attention":
            return
        heads = self.num_attention_heads
        if heads is None or len(heads) != len(self.encoder_depths) + 1:
            raise ValueError(
                f"`mixer_type='attention'` needs `num_attention_heads` for {len(self.encoder_depths)} levels and the "
                f"latent, got {heads}."
            )
        sizes = [*self.encoder_hidden_sizes, self.latent_hidden_size]
        pairs = [*zip(sizes, heads, strict=True), *zip(self.decoder_hidden_sizes, heads[-2::-1], strict=True)]
        for size, head_count in pairs:
            if head_count < 1 or size % head_count:
                raise ValueError(f"{size} channels cannot be split into {head_count} attention heads.")

    def validate_experts(self):
        """Known experts, and a top-k that can be chosen from them."""
        unknown = sorted(set(self.expert_types) - {"local", "directional", "regional"})
        if unknown or not self.expert_types:
            raise ValueError(
                f"`expert_types` must be a list of 'local', 'directional' and 'regional', got {list(self.expert_types)}."
            )
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"`num_experts_per_tok` must lie between 1 and the {self.num_experts} experts, "
                f"got {self.num_experts_per_tok}."
            )
        if not 0 <= self.router_noise_std < math.inf:
            raise ValueError(f"`router_noise_std` cannot be negative, got {self.router_noise_std}.")
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"`layer_norm_eps` must be positive, got {self.layer_norm_eps}.")


__all__ = ["UniRainConfig"]
