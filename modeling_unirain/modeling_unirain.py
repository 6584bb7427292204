"""The UniRain network (CVPR 2026, section 3): a U-shaped encoder-decoder with an asymmetric mixture of experts.

The encoder blends all of its experts (soft), the decoder runs the best one only (hard). An image is routed as a
whole, from the averages of its features, which also scale and shift what its experts give; the averages can be kept
and handed back, which is how the tiles of one large image come to agree.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .checkpoint_unirain import ResolvesCheckpointNames
from .configuration_unirain import UniRainConfig


DIRECTIONAL_LENGTH = 9
REGIONAL_STRIDE = 4


@dataclass
class UniRainOutput(ModelOutput):
    """
    Args:
        loss (`Tensor` of shape `()`, with `labels`): Mean absolute error of the reconstruction.
        reconstruction (`Tensor` of shape `(batch, 3, height, width)`): The derained image, not clamped to [0, 1].
        routes (`Tensor` of shape `(batch, num_routers, num_experts)`, float32, with `output_routes=True`): The weight
            that every MoE block gave its experts, encoder blocks first; zero where an expert was not run.
        router_probabilities (`Tensor`, the same shape, with `output_routes=True` unless `routes` were given): The
            routers' softmax before the top-k, for [`load_balancing_loss`].
        averages (`tuple` of `Tensor`, with `output_routes=True`): What every MoE block's router was given, float32 of shape
            `(batch, the block's channels)`, encoder blocks first.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    routes: Tensor | None = None
    router_probabilities: Tensor | None = None
    averages: tuple[Tensor, ...] | None = None


class UniRainLayerNorm(nn.LayerNorm):
    """Normalises over the channels of `(batch, channels, height, width)`; statistics in float32 whatever the dtype.

    In channels_last memory both permutations are free.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        channels_last = hidden_states.permute(0, 2, 3, 1)
        normalised = F.layer_norm(channels_last, self.normalized_shape, self.weight, self.bias, self.eps)
        return normalised.permute(0, 3, 1, 2)


class UniRainGatedConvolution(nn.Module):
    """Mixes neighbouring positions: the first half of NAFNet's block (Chen et al., ECCV 2022) without its channel
    attention: the image as a whole comes in where its experts are chosen (see [`UniRainModulation`])."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.project_in = nn.Conv2d(hidden_size, 2 * hidden_size, 1)
        self.depthwise = nn.Conv2d(2 * hidden_size, 2 * hidden_size, 3, padding=1, groups=2 * hidden_size)
        self.project_out = nn.Conv2d(hidden_size, hidden_size, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, value = self.depthwise(self.project_in(hidden_states)).chunk(2, dim=1)
        return self.project_out(gate * value)


class UniRainChannelAttention(nn.Module):
    """Mixes channels over the whole image: Restormer's transposed attention (Zamir et al., CVPR 2022, equation 1).

    The attention map is (channels / heads) squared, so its cost is linear in the number of pixels.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.query_key_value = nn.Conv2d(hidden_size, 3 * hidden_size, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * hidden_size, 3 * hidden_size, 3, padding=1, groups=3 * hidden_size, bias=False)
        self.project_out = nn.Conv2d(hidden_size, hidden_size, 1, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        batch, channels, height, width = hidden_states.shape
        heads = (batch, self.num_heads, channels // self.num_heads, height * width)
        query, key, value = self.depthwise(self.query_key_value(hidden_states)).chunk(3, dim=1)
        # In float32: the norm over all pixels overflows float16, and 0 / 0 gives NaN.
        query = F.normalize(query.reshape(heads).float(), dim=-1) * self.temperature.float()
        key = F.normalize(key.reshape(heads).float(), dim=-1)
        value = value.reshape(heads)
        attended = F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, scale=1.0)
        return self.project_out(attended.reshape(batch, channels, height, width))


def build_mixer(config: UniRainConfig, hidden_size: int, level: int) -> nn.Module:
    """The mixer of `config.mixer_type`; `level` counts from the finest one and selects the attention heads."""
    if config.mixer_type == "attention":
        return UniRainChannelAttention(hidden_size, config.num_attention_heads[level])
    return UniRainGatedConvolution(hidden_size)


class UniRainExpert(nn.Module):
    """Gated depth-wise feed-forward (Restormer's) whose gate looks at the surroundings in the expert's own way.

    The gate multiplies as it is: NAFNet's simple gate, which does as well as GELU and costs a CPU a sixth less per step.

    The paper leaves the experts' inner design open. Experts of one shape have no reason to differ, so each kind here
    sees what one kind of rain looks like:

    - `"local"`: 3 x 3. Fine streaks and ordinary texture.
    - `"directional"`: adds a vertical and a horizontal strip of 9 (strip kernels as in SegNeXt, Guo et al., NeurIPS
      2022). Streaks are long and thin; rain is told from texture by being straight for longer.
    - `"regional"`: a 3 x 3 kernel on features averaged over 4 x 4, brought back by bilinear interpolation: 12 x 12 at
      the cost of a sixteenth. Drops, halos and veils are wide (the role of dilation in JORDER, Yang et al., CVPR
      2017; dilated depth-wise kernels are several times slower to train on a CPU).
    """

    def __init__(self, hidden_size: int, expansion: float, expert_type: str = "local"):
        super().__init__()
        width = int(hidden_size * expansion)
        self.expert_type = expert_type
        self.project_in = nn.Conv2d(hidden_size, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        if expert_type == "directional":
            length, pad = DIRECTIONAL_LENGTH, DIRECTIONAL_LENGTH // 2
            self.vertical = nn.Conv2d(width, width, (length, 1), padding=(pad, 0), groups=width)
            self.horizontal = nn.Conv2d(width, width, (1, length), padding=(0, pad), groups=width)
        elif expert_type == "regional":
            self.regional = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.project_out = nn.Conv2d(width, hidden_size, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, value = self.depthwise(self.project_in(hidden_states)).chunk(2, dim=1)
        return self.project_out(self.look_around(gate) * value)

    def look_around(self, gate: Tensor) -> Tensor:
        if self.expert_type == "directional":
            return gate + self.vertical(gate) + self.horizontal(gate)
        if self.expert_type == "regional":
            region = self.regional(F.avg_pool2d(gate, REGIONAL_STRIDE))
            return gate + F.interpolate(region, scale_factor=REGIONAL_STRIDE, mode="bilinear", align_corners=False)
        return gate


def global_average(hidden_states: Tensor) -> Tensor:
    """`(batch, channels, height, width)` -> `(batch, channels)`, float32."""
    return hidden_states.mean(dim=(2, 3), dtype=torch.float32)


def average_of_cores(features: Iterable[Tensor], cores: list[tuple[slice, slice, int]]) -> Tensor:
    """`global_average` over parts of several windows: their rows, columns and the windows' heights, in pixels of the image."""
    total, area = 0.0, 0
    for hidden_states, (rows, columns, window_height) in zip(features, cores, strict=True):
        stride = window_height // hidden_states.shape[2]
        y, x = (slice(core.start // stride, core.stop // stride) for core in (rows, columns))
        core = hidden_states[:, :, y, x]
        total += core.sum(dim=(2, 3), dtype=torch.float32)
        area += core.shape[2] * core.shape[3]
    return total / area


class UniRainRouterProjection(nn.Linear):
    """W of the routers, in float32: written out, since autocast would take a matrix product to half precision."""

    def forward(self, pooled: Tensor) -> Tensor:
        return (pooled[:, None] * self.weight.float()).sum(-1) + self.bias.float()


class UniRainRouter(nn.Module):
    """σ(W(φ(x + ε))): one weight an expert and image, from the average of the image's features (section 3).

    φ is global average pooling. ε is drawn after it: averaging independent noise over the pixels only divides its
    deviation by the square root of their number, so this is the same random variable without a noise image, and its
    effect does not vanish as images grow. Evaluation adds none.
    """

    def __init__(self, hidden_size: int, num_experts: int, noise_std: float):
        super().__init__()
        self.noise_std = noise_std
        self.project = UniRainRouterProjection(hidden_size, num_experts)

    def forward(self, pooled: Tensor) -> Tensor:
        """`global_average` of the features, `(batch, channels)` -> `(batch, experts)`, float32, each row summing to one."""
        if self.training and self.noise_std > 0:
            pooled = pooled + self.noise_std * torch.randn_like(pooled)
        return self.project(pooled).softmax(dim=-1, dtype=torch.float32)  # under autocast the logits are bfloat16

    def route(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The weights to apply and the probabilities, both `(batch, experts)`."""
        probabilities = self(pooled)
        return self.select(probabilities), probabilities

    def select(self, probabilities: Tensor) -> Tensor:
        """The weights to apply: here all of them."""
        return probabilities


class UniRainTopKRouter(UniRainRouter):
    """T_k of the hard MoE: keeps the k largest weights and zeroes the others.

    The kept weights are not renormalised (the paper does not say): with k = 1 that would make every weight one and
    leave the router without a gradient.
    """

    def __init__(self, hidden_size: int, num_experts: int, noise_std: float, top_k: int):
        super().__init__(hidden_size, num_experts, noise_std)
        self.top_k = top_k

    def select(self, probabilities: Tensor) -> Tensor:
        """`(batch, experts)` -> the same, with all but the k largest of each row set to zero."""
        weights, index = probabilities.topk(self.top_k, dim=-1)
        return torch.zeros_like(probabilities).scatter(-1, index, weights)


class UniRainSoftMoE(nn.Module):
    """y = Σ_i R_i · E_i(x) over all experts (section 3, the encoder's)."""

    def __init__(self, config: UniRainConfig, hidden_size: int, expansion: float):
        super().__init__()
        self.router = UniRainRouter(hidden_size, config.num_experts, config.router_noise_std)
        self.experts = nn.ModuleList(UniRainExpert(hidden_size, expansion, kind) for kind in config.expert_types)

    def forward(self, hidden_states: Tensor, weights: Tensor) -> Tensor:
        weights = weights.to(hidden_states.dtype)[:, :, None, None, None]
        return sum(weights[:, i] * expert(hidden_states) for i, expert in enumerate(self.experts))


class UniRainHardMoE(nn.Module):
    """y = Σ_i R_i · E_i(x) over the k chosen experts; the others are not computed (section 3, the decoder's)."""

    def __init__(self, config: UniRainConfig, hidden_size: int, expansion: float):
        super().__init__()
        self.router = UniRainTopKRouter(
            hidden_size, config.num_experts, config.router_noise_std, config.num_experts_per_tok
        )
        self.experts = nn.ModuleList(UniRainExpert(hidden_size, expansion, kind) for kind in config.expert_types)

    def forward(self, hidden_states: Tensor, weights: Tensor) -> Tensor:
        output = torch.zeros_like(hidden_states)
        for i, expert in enumerate(self.experts):
            images = torch.nonzero(weights[:, i]).squeeze(1)
            # A graph cannot branch on the data; there, an expert without images runs on none.
            is_recorded = torch.compiler.is_exporting() or torch.jit.is_tracing()
            if not is_recorded and images.numel() == 0:
                continue
            weight = weights[images, i].to(hidden_states.dtype)[:, None, None, None]
            output = output.index_add(0, images, (weight * expert(hidden_states[images])).to(output.dtype))
        return output


class UniRainModulation(nn.Linear):
    """Scales and shifts features channel by channel, by what the whole image is like: its average features.

    Not in the paper. How strong a rain is and what tone lies over the picture are properties of the whole of it, of which
    the experts' weights alone, three numbers a block, tell little. As FiLM (Perez et al., AAAI 2018), of the image's own
    features as in squeeze-and-excitation (Hu et al., CVPR 2018); taken where the router looks already, so that tiles can
    share it. Starts as the identity.
    """

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, 2 * hidden_size)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden_states: Tensor, average: Tensor) -> Tensor:
        """`hidden_states` `(batch, channels, height, width)`, `average` `(batch, channels)` -> as `hidden_states`."""
        factors = super().forward(average.to(self.weight.dtype)).to(hidden_states.dtype)
        scale, shift = factors[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, hidden_states, 1 + scale)


class UniRainBlock(GradientCheckpointingLayer):
    """A block with one dense feed-forward: mixer and feed-forward, each normalised before and added back."""

    def __init__(self, config: UniRainConfig, hidden_size: int, level: int):
        super().__init__()
        self.mixer_norm = UniRainLayerNorm(hidden_size, config.layer_norm_eps)
        self.mixer = build_mixer(config, hidden_size, level)
        self.feed_forward_norm = UniRainLayerNorm(hidden_size, config.layer_norm_eps)
        self.feed_forward = UniRainExpert(hidden_size, config.feed_forward_expansion)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = hidden_states + self.mixer(self.mixer_norm(hidden_states))
        return hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))


class UniRainMoEBlock(GradientCheckpointingLayer):
    """A block whose feed-forward is a mixture of experts, soft or hard, modulated by the image as a whole."""

    def __init__(self, config: UniRainConfig, hidden_size: int, level: int, routing: str, expansion: float):
        super().__init__()
        self.mixer_norm = UniRainLayerNorm(hidden_size, config.layer_norm_eps)
        self.mixer = build_mixer(config, hidden_size, level)
        self.moe_norm = UniRainLayerNorm(hidden_size, config.layer_norm_eps)
        moe = UniRainSoftMoE if routing == "soft" else UniRainHardMoE
        self.moe = moe(config, hidden_size, expansion)
        self.modulation = UniRainModulation(hidden_size) if config.modulation else None

    def forward(
        self, hidden_states: Tensor, average: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Returns the features, the average that counted, the weights applied, and the router's probabilities if no weights were given."""
        hidden_states = self.mix(hidden_states)
        expert_input, probabilities = self.moe_norm(hidden_states), None
        if average is None:
            average = global_average(expert_input)
        if weights is None:
            weights, probabilities = self.moe.router.route(average)
        return hidden_states + self.run_experts(expert_input, average, weights), average, weights, probabilities

    def mix(self, hidden_states: Tensor) -> Tensor:
        """The first half, before the experts."""
        return hidden_states + self.mixer(self.mixer_norm(hidden_states))

    def run_experts(self, expert_input: Tensor, average: Tensor, weights: Tensor) -> Tensor:
        """The second half: what is added to the features."""
        output = self.moe(expert_input, weights)
        return output if self.modulation is None else self.modulation(output, average)


class UniRainLevel(nn.Module):
    """The MoE blocks of one resolution."""

    def __init__(
        self, config: UniRainConfig, hidden_size: int, depth: int, level: int, routing: str, expansion: float
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            UniRainMoEBlock(config, hidden_size, level, routing, expansion) for _ in range(depth)
        )

    def forward(self, hidden_states: Tensor, routing: "Routing") -> Tensor:
        for block in self.blocks:
            hidden_states, *decided = block(hidden_states, *routing.given())
            routing.record(*decided)
        return hidden_states


class Routing:
    """The averages and routes of one forward pass: those that were given, handed out in order, and those that counted."""

    def __init__(self, averages: Sequence[Tensor] | None = None, routes: Tensor | None = None):
        self.given_averages = averages
        self.routes = routes
        self.averages: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.probabilities: list[Tensor | None] = []

    def given(self) -> tuple[Tensor | None, Tensor | None]:
        """The next block's average, `(batch, channels)`, and weights, `(batch, experts)`; `None` for what it is to find itself."""
        block = len(self.weights)
        average = None if self.given_averages is None else self.given_averages[block]
        return average, None if self.routes is None else self.routes[:, block]

    def record(self, average: Tensor, weights: Tensor, probabilities: Tensor | None) -> None:
        self.averages.append(average)
        self.weights.append(weights)
        self.probabilities.append(probabilities)


class UniRainDownsample(nn.Module):
    """Halves height and width: a 3 x 3 convolution, then pixel-unshuffle."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels // 4, 3, padding=1, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.project(hidden_states), 2)


class UniRainUpsample(nn.Module):
    """Doubles height and width: a 3 x 3 convolution, then pixel-shuffle."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels * 4, 3, padding=1, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return F.pixel_shuffle(self.project(hidden_states), 2)


class UniRainSoftMoEEncoder(nn.Module):
    """Fine to coarse; keeps each level's features for the decoder, and ends in the dense latent."""

    def __init__(self, config: UniRainConfig):
        super().__init__()
        sizes = config.encoder_hidden_sizes
        self.levels = nn.ModuleList(
            UniRainLevel(config, size, depth, level, config.encoder_routing, config.encoder_expansion)
            for level, (size, depth) in enumerate(zip(sizes, config.encoder_depths, strict=True))
        )
        coarser = [*sizes[1:], config.latent_hidden_size]
        self.downsamples = nn.ModuleList(UniRainDownsample(*pair) for pair in zip(sizes, coarser, strict=True))
        self.latent = nn.ModuleList(
            UniRainBlock(config, config.latent_hidden_size, len(sizes)) for _ in range(config.latent_depth)
        )

    def forward(self, hidden_states: Tensor, routing: Routing) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for level, downsample in zip(self.levels, self.downsamples, strict=True):
            hidden_states = level(hidden_states, routing)
            skips.append(hidden_states)
            hidden_states = downsample(hidden_states)
        for block in self.latent:
            hidden_states = block(hidden_states)
        return hidden_states, skips


class UniRainHardMoEDecoder(nn.Module):
    """Coarse to fine; joins each level with the encoder's features, and ends in the dense refinement."""

    def __init__(self, config: UniRainConfig):
        super().__init__()
        sizes, skip_sizes = config.decoder_hidden_sizes, config.encoder_hidden_sizes[::-1]
        coarser = [config.latent_hidden_size, *sizes[:-1]]
        self.upsamples = nn.ModuleList(UniRainUpsample(*pair) for pair in zip(coarser, skip_sizes, strict=True))
        # Where both halves together already have the level's channels, they are used as they are (Restormer's top).
        self.fusions = nn.ModuleList(
            nn.Identity() if 2 * skip_size == size else nn.Conv2d(2 * skip_size, size, 1)
            for skip_size, size in zip(skip_sizes, sizes, strict=True)
        )
        self.levels = nn.ModuleList(
            UniRainLevel(config, size, depth, level, config.decoder_routing, config.decoder_expansion)
            for level, size, depth in zip(reversed(range(len(sizes))), sizes, config.decoder_depths, strict=True)
        )
        self.refinement = nn.ModuleList(UniRainBlock(config, sizes[-1], 0) for _ in range(config.refinement_depth))

    def forward(self, hidden_states: Tensor, skips: list[Tensor], routing: Routing) -> Tensor:
        for index, (level, skip) in enumerate(zip(self.levels, skips[::-1], strict=True)):
            hidden_states = level(self.join(index, hidden_states, skip), routing)
        for block in self.refinement:
            hidden_states = block(hidden_states)
        return hidden_states

    def join(self, level: int, hidden_states: Tensor, skip: Tensor) -> Tensor:
        """What the level works on: the coarser level's features, brought to its size, and the encoder's."""
        return self.fusions[level](torch.cat([self.upsamples[level](hidden_states), skip], dim=1))


class UniRainPreTrainedModel(ResolvesCheckpointNames, PreTrainedModel):
    config: UniRainConfig
    base_model_prefix = "unirain"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["UniRainForImageDeraining"]  # its skips and routes would lie on several devices

    def _init_weights(self, module: nn.Module):
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm)):
            module.reset_parameters()  # torch's own initialisation: transformers' default is N(0, 0.02) for all
        elif isinstance(module, UniRainChannelAttention):
            nn.init.ones_(module.temperature)


class UniRainForImageDeraining(UniRainPreTrainedModel):
    """Removes rain from images: `reconstruction = pixel_values + residual`.

    Args:
        config ([`UniRainConfig`]): Sizes and routing.
    """

    def __init__(self, config: UniRainConfig):
        super().__init__(config)
        config.validate()  # overrides given to `from_pretrained` have not been checked yet
        self.patch_embed = nn.Conv2d(config.num_channels, config.encoder_hidden_sizes[0], 3, padding=1)
        self.encoder = UniRainSoftMoEEncoder(config)
        self.decoder = UniRainHardMoEDecoder(config)
        self.output_projection = nn.Conv2d(config.decoder_hidden_sizes[-1], config.num_channels, 3, padding=1)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        routes: Tensor | None = None,
        output_routes: bool = False,
        return_dict: bool | None = None,
        averages: Sequence[Tensor] | None = None,
    ) -> UniRainOutput | tuple:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch, 3, height, width)`): RGB in [0, 1]; height and width must be
                multiples of `config.size_divisor`.
            labels (`Tensor` of the same shape, *optional*): The image without rain; gives `loss`.
            routes (`Tensor` of shape `(batch or 1, num_routers, num_experts)`, *optional*): Weights to apply in place
                of the routers' own, such as an earlier output's `routes`.
            output_routes (`bool`): Whether to return `routes`, `router_probabilities` and `averages`.
            return_dict (`bool`, *optional*): `False` gives a tuple of what there is; by default `config.return_dict` decides.
            averages (sequence of `num_routers` `Tensor`s of shape `(batch or 1, channels)`, *optional*): What the routers and
                modulations are to go by in place of the averages of these images: those of the whole image, for a tile of it.

        Raises:
            `ValueError`: If a shape cannot be taken; the message holds the numbers.
        """
        self._check(pixel_values, routes, averages)
        if labels is not None and labels.shape != pixel_values.shape:
            raise ValueError(
                f"`labels` must have the shape of `pixel_values`, {tuple(pixel_values.shape)}, got {tuple(labels.shape)}."
            )
        batch = pixel_values.shape[0]
        if routes is not None:
            routes = routes.expand(batch, -1, -1)
        if averages is not None:
            averages = [average.expand(batch, -1) for average in averages]
        routing = Routing(averages, routes)
        features, skips = self.encoder(self.patch_embed(pixel_values), routing)
        residual = self.output_projection(self.decoder(features, skips, routing))
        reconstruction = pixel_values + residual

        output = UniRainOutput(reconstruction=reconstruction)
        if labels is not None:
            output.loss = F.l1_loss(reconstruction.float(), labels.float())
        if output_routes:
            output.routes = torch.stack(routing.weights, dim=1)
            if routes is None:
                output.router_probabilities = torch.stack(routing.probabilities, dim=1)
            output.averages = tuple(routing.averages)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers does, with what `pipeline("image-to-image", ...)` and `AutoModel` look for in a checkpoint."""
        from .pipeline_unirain import UniRainPipeline  # transformers takes the code along that this file names

        pipeline, own = (
            f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for cls in (UniRainPipeline, type(self))
        )
        task = {"impl": pipeline, "pt": ["AutoModelForImageToImage"], "type": "image"}
        self.config.custom_pipelines = {"image-to-image": task}
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), "AutoModel": own}
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def compute_averages(
        self, windows: Iterable[tuple[Tensor, slice, slice]], on_router: Callable[[], None] | None = None
    ) -> tuple[Tensor, ...]:
        """The averages that one image is routed and modulated by, from windows of it that together need not fit through a forward pass.

        All windows are taken to the same block before its router is asked, and on with what it gives them. Windows
        whose cores make up the image give its own averages, up to what the windows' borders change in the cores; a sample
        of them estimates the same. Between blocks a window's features take an eighth of what its forward pass does.

        Args:
            windows (iterable of `(Tensor, slice, slice)`): Windows `(1, 3, height, width)` of a single image, and the rows
                and columns of each that count, the core: the rest is there for what the core's features see beyond it.
                Cores start and end at multiples of the coarsest routers' stride, `config.size_divisor / 4`.
            on_router (`Callable[[], None]`, *optional*): Called after each of the `config.num_routers` routers.

        Returns:
            `tuple` of `num_routers` `Tensor`s of shape `(1, channels)`: To be given to `forward` with every tile.
        """
        states, cores, skips, averages = [], [], [], []
        for window, rows, columns in windows:
            self._check(window)
            states.append(self.patch_embed(window))
            cores.append((rows, columns, window.shape[2]))

        def through(level: UniRainLevel) -> None:
            for block in level.blocks:
                for index, hidden_states in enumerate(states):
                    states[index] = block.mix(hidden_states)
                average = average_of_cores(map(block.moe_norm, states), cores)
                averages.append(average)
                if on_router is not None:
                    on_router()
                if len(averages) == self.config.num_routers:
                    return  # nobody asks what the last experts make of it
                weights, _ = block.moe.router.route(average)
                for index, hidden_states in enumerate(states):
                    states[index] = hidden_states + block.run_experts(block.moe_norm(hidden_states), average, weights)

        for level, downsample in zip(self.encoder.levels, self.encoder.downsamples, strict=True):
            through(level)
            skips.append(states)
            states = [downsample(hidden_states) for hidden_states in states]
        for block in self.encoder.latent:
            states = [block(hidden_states) for hidden_states in states]
        for number, level in enumerate(self.decoder.levels):
            skip = skips.pop()
            for index, hidden_states in enumerate(states):
                states[index] = self.decoder.join(number, hidden_states, skip[index])
                skip[index] = None  # kept no longer than needed: here the features of all windows take most
            through(level)
        return tuple(averages)

    @torch.no_grad()
    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """What the encoder sees: each channel's mean and deviation over the image, per level and of the latent.

        Args:
            pixel_values (`Tensor` of shape `(batch, 3, height, width)`): As in `forward`.

        Returns:
            `Tensor` of shape `(batch, config.feature_size)`, float32.
        """
        self._check(pixel_values)
        features, skips = self.encoder(self.patch_embed(pixel_values), Routing())
        levels = [level.float().flatten(2) for level in (*skips, features)]
        return torch.cat([statistic for level in levels for statistic in (level.mean(-1), level.std(-1))], dim=1)

    def _check(
        self, pixel_values: Tensor, routes: Tensor | None = None, averages: Sequence[Tensor] | None = None
    ) -> None:
        channels, divisor = self.config.num_channels, self.config.size_divisor
        if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"`pixel_values` must have the shape (batch, {channels}, height, width), got {tuple(pixel_values.shape)}."
            )
        height, width = pixel_values.shape[-2:]
        if height % divisor or width % divisor:
            raise ValueError(
                f"Height and width must be multiples of {divisor}, got {height} x {width}: "
                "pad the image with the image processor, which crops the result back."
            )
        expected = (self.config.num_routers, self.config.num_experts)
        if routes is not None and (
            routes.dim() != 3
            or tuple(routes.shape[1:]) != expected
            or routes.shape[0] not in (1, pixel_values.shape[0])
        ):
            raise ValueError(
                f"`routes` must have the shape ({pixel_values.shape[0]} or 1, {expected[0]}, {expected[1]}), "
                f"got {tuple(routes.shape)}."
            )
        if averages is not None:
            shapes, sizes = [tuple(average.shape) for average in averages], self.config.router_sizes
            if not any(shapes == [(rows, size) for size in sizes] for rows in (1, pixel_values.shape[0])):
                raise ValueError(
                    f"`averages` must be {len(sizes)} tensors of {pixel_values.shape[0]} or 1 rows and {sizes} columns, "
                    f"got the shapes {shapes}."
                )


def load_balancing_loss(output: UniRainOutput, mean: Callable[[Tensor], Tensor] = lambda share: share) -> Tensor:
    """experts · Σ_i f_i · P_i, averaged over the hard routers (Switch Transformer, Fedus et al., 2022, equation 4).

    f_i is the share of the batch's images given to expert i, P_i its mean probability; 1 when both are even. The paper
    mentions no such term and trains for long; without one, a short run sends every image to the same expert.

    Args:
        output ([`UniRainOutput`]): Of a forward pass with `output_routes=True`.
        mean (`Callable`, *optional*): Averages f over all processes that share a batch; the mean of their losses is then the
            loss of the whole batch. Taken over one image, the term would only punish a router for being sure.
    """
    chosen = mean((output.routes > 0).float().mean(0))
    hard = chosen.sum(-1) < output.routes.shape[-1]  # routers that left an expert out
    balance = (chosen * output.router_probabilities.mean(0)).sum(-1) / chosen.sum(-1)
    return output.routes.shape[-1] * (balance * hard).sum() / hard.sum().clamp(min=1)


__all__ = ["UniRainForImageDeraining", "UniRainOutput", "UniRainPreTrainedModel", "load_balancing_loss"]
