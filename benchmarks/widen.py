"""Writes a checkpoint with twice the channels at some levels that computes what the given one does (Net2Net, Chen et al., ICLR 2016),
or, with `--fold`, one with half of them from a widened one that was trained on.

    python benchmarks/widen.py runs/33/last wide --encoder 32 32 64 128 --decoder 128 64 32 32
    python benchmarks/widen.py runs/34/last folded --encoder 16 32 64 128 --decoder 128 64 32 16 --fold

A channel's copy stands beside it, so that halves (a gate and its value, a scale and its shift, a skip connection and what it
joins) stay halves, and a normalisation sees the same mean and variance. What reads the two shares its weight between them
unevenly, by which they get other gradients and part. Folded, the two are averaged and their shares added up.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from modeling_unirain import UniRainConfig, UniRainForImageDeraining, UniRainImageProcessor


SHARES = (0.2, 0.8)
"""Between which a copied channel's share of a weight is drawn."""


def widened(weight: Tensor, shape: torch.Size, group: int, generator: torch.Generator) -> Tensor:
    """`weight` with its outputs (dimension 0) copied, `group` of them at a time, and its inputs (dimension 1) shared."""
    if shape[0] == 2 * weight.shape[0]:
        weight = weight.unflatten(0, (-1, group)).repeat_interleave(2, dim=0).flatten(0, 1)
    if weight.dim() > 1 and shape[1] == 2 * weight.shape[1]:
        low, high = SHARES
        share = low + (high - low) * torch.rand(weight.shape, generator=generator)
        weight = torch.stack([weight * share, weight * (1 - share)], dim=2).flatten(1, 2)
    return weight


def folded(weight: Tensor, shape: torch.Size, group: int) -> Tensor:
    """`weight` with outputs averaged and inputs added up in pairs, where `shape` has half of them."""
    if 2 * shape[0] == weight.shape[0]:
        weight = weight.unflatten(0, (-1, 2, group)).mean(1).flatten(0, 1)
    if weight.dim() > 1 and 2 * shape[1] == weight.shape[1]:
        weight = weight.unflatten(1, (-1, 2)).sum(2)
    return weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--encoder", type=int, nargs="+", required=True, help="the encoder's channels, fine to coarse")
    parser.add_argument("--decoder", type=int, nargs="+", required=True, help="the decoder's, coarse to fine")
    parser.add_argument("--fold", action="store_true", help="halve instead of doubling")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    given = UniRainForImageDeraining.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
    sizes = {"encoder_hidden_sizes": arguments.encoder, "decoder_hidden_sizes": arguments.decoder}
    made = UniRainForImageDeraining(UniRainConfig.from_dict({**given.config.to_dict(), **sizes})).eval()
    generator = torch.Generator().manual_seed(arguments.seed)
    weights = given.state_dict()
    for name, own in made.state_dict().items():
        group = 4 if name.startswith("decoder.upsamples") else 1  # the four subpixels of a channel stay together
        weight = weights[name]
        weights[name] = (
            folded(weight, own.shape, group) if arguments.fold else widened(weight, own.shape, group, generator)
        )
        if weights[name].shape != own.shape:
            raise SystemExit(
                f"{name}: {tuple(weight.shape)} cannot be made {tuple(own.shape)}: only twice or half of it."
            )
    made.load_state_dict(weights)

    image = torch.rand(1, 3, 128, 128, generator=generator)
    with torch.inference_mode():
        difference = (made(image).reconstruction - given(image).reconstruction).abs().max().item()
    print(f"On a random image the network differs from the given one by {difference:.1e} at most.")
    made.save_pretrained(arguments.output)
    UniRainImageProcessor.from_pretrained(arguments.checkpoint).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
