import copy

import pytest
import torch

from modeling_unirain import UniRainConfig, UniRainForImageDeraining
from modeling_unirain.training.routers import spread_routers


@pytest.fixture
def images():
    """As different as photographs are: flat ones and textured ones, of all brightnesses."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.rand(48, 3, 1, 1, generator=generator)
    return (
        levels + torch.rand(48, 1, 1, 1, generator=generator) * torch.randn(48, 3, 32, 32, generator=generator) / 4
    ).clamp(0, 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).eval()


def hard(model, tensor):
    soft = sum(model.config.encoder_depths)
    return tensor[:, soft:]


@torch.no_grad()
def test_spread_routers_choose_clearly_and_differently(model, images):
    before = model(images, output_routes=True)
    assert hard(model, before.routes).amax(-1).mean() < 0.45  # a linear router starts near one third
    spread_routers(model, images, deviation=2.0, seed=0)
    routes = hard(model, model(images, output_routes=True).routes)
    assert routes.amax(-1).mean() > 0.6
    assert (routes > 0).float().mean(0).amin() > 0.05  # every expert has images of its own


@torch.no_grad()
def test_the_first_spread_router_has_the_deviation_asked_for(model, images):
    spread_routers(model, images, deviation=1.5, seed=0)
    probabilities = hard(model, model(images, output_routes=True).router_probabilities)[:, 0]
    logits = probabilities.log()
    # The softmax hides a constant, not differences: those of independent directions add up their variances at most.
    assert (logits[:, 0] - logits[:, 1]).std() < 3.01
    assert (logits - logits.mean(-1, keepdim=True)).std() > 0.75


@torch.no_grad()
def test_the_network_stays_near_what_it_was(model, images):
    before = copy.deepcopy(model)
    spread_routers(model, images, deviation=2.0, seed=0)
    change = (model(images).reconstruction - before(images).reconstruction).abs().mean()
    effect = (before(images).reconstruction - images).abs().mean()
    assert 0 < change < 0.5 * effect
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name]), name


def test_the_seed_decides(model, images):
    copies = [copy.deepcopy(model) for _ in range(3)]
    for each, seed in zip(copies, (0, 0, 1), strict=True):
        spread_routers(each, images, deviation=2.0, seed=seed)
    weights = [each.decoder.levels[0].blocks[0].moe.router.project.weight for each in copies]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
