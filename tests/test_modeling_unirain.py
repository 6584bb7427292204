"""The network: the paper's equations against independent computations, and what users rely on."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map
from transformers.utils import logging as transformers_logging

from modeling_unirain.configuration_unirain import UniRainConfig
from modeling_unirain.modeling_unirain import (
    UniRainExpert,
    UniRainForImageDeraining,
    UniRainHardMoE,
    UniRainModulation,
    UniRainRouter,
    UniRainSoftMoE,
    global_average,
    load_balancing_loss,
)


transformers_logging.disable_progress_bar()

EXPERT_TYPES = ["local", "directional", "regional"]


@pytest.fixture
def model() -> UniRainForImageDeraining:
    """The tiny size, untrained, its modulations at work and its routers sharpened so that images really choose different experts."""
    torch.manual_seed(0)
    model = UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).eval()
    for module in model.modules():
        if isinstance(module, UniRainModulation):
            torch.nn.init.normal_(module.weight, std=0.1)
    sharpen_routers(model, different_images(5))
    return model


@torch.no_grad()
def sharpen_routers(model: torch.nn.Module, images: torch.Tensor, scale: float = 300.0) -> None:
    """Makes every router answer to what sets `images` apart: steep, and centred on their mean."""

    def centre(router, inputs):
        router.project.weight.mul_(scale)
        router.project.bias.copy_(-router.project.weight @ inputs[0].mean(0))

    routers = [module for module in model.modules() if isinstance(module, UniRainRouter)]
    hooks = [router.register_forward_pre_hook(centre) for router in routers]
    model(images)
    for hook in hooks:
        hook.remove()


def different_images(count: int, size: int = 32) -> torch.Tensor:
    """Images unlike one another: bright, dark, noisy, smooth, coloured."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(count, 3, size, size, generator=generator)
    colours = torch.rand(count, 3, 1, 1, generator=generator)
    contrast = torch.linspace(0, 1, count)[:, None, None, None]
    return contrast * noise + (1 - contrast) * colours


def count_calls(model: torch.nn.Module) -> dict[torch.nn.Module, int]:
    """Images that every expert of the hard blocks has run on, filled in as the model runs."""
    calls = {}

    def hook(module, inputs, output):
        calls[module] += inputs[0].shape[0]

    for module in model.modules():
        if isinstance(module, UniRainHardMoE):
            for expert in module.experts:
                calls[expert] = 0
                expert.register_forward_hook(hook)
    return calls


def test_soft_block_is_the_weighted_sum_of_all_experts():
    torch.manual_seed(0)
    config = UniRainConfig.from_name("unirain-tiny")
    moe = UniRainSoftMoE(config, 8, 1.0).eval()
    features = torch.randn(3, 8, 16, 16)
    weights, _ = moe.router.route(global_average(features))
    logits = features.double().mean((2, 3)) @ moe.router.project.weight.double().T + moe.router.project.bias.double()
    expected_weights = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
    expected = sum(expected_weights[:, i, None, None, None] * moe.experts[i](features) for i in range(3))
    torch.testing.assert_close(weights.double(), expected_weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(moe(features, weights), expected.float(), rtol=1e-4, atol=1e-5)


def test_hard_block_with_every_expert_equals_the_dense_sum():
    torch.manual_seed(0)
    config = UniRainConfig.from_name("unirain-tiny", num_experts_per_tok=3)
    moe = UniRainHardMoE(config, 8, 1.0).eval()
    features = torch.randn(4, 8, 16, 16)
    weights, probabilities = moe.router.route(global_average(features))
    dense = sum(probabilities[:, i, None, None, None] * moe.experts[i](features) for i in range(3))
    torch.testing.assert_close(moe(features, weights), dense)


def test_hard_router_keeps_the_largest_weight_and_its_value():
    config = UniRainConfig.from_name("unirain-tiny")
    moe = UniRainHardMoE(config, 8, 1.0).eval()
    weights, probabilities = moe.router.route(global_average(torch.randn(5, 8, 8, 8)))
    assert (weights > 0).sum(1).tolist() == [1] * 5
    torch.testing.assert_close(weights.amax(1), probabilities.amax(1))
    assert torch.equal(weights.argmax(1), probabilities.argmax(1))


def test_batch_equals_its_images_one_by_one(model):
    images = different_images(5)
    with torch.no_grad():
        batch = model(images, output_routes=True)
        singles = [model(image[None], output_routes=True) for image in images]
    decoder = batch.routes[:, model.config.num_routers // 2 :]
    assert len({tuple(row.argmax(-1).tolist()) for row in decoder}) > 1, "the images should not all route alike"
    torch.testing.assert_close(batch.routes, torch.cat([single.routes for single in singles]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        batch.reconstruction, torch.cat([single.reconstruction for single in singles]), rtol=1e-4, atol=1e-5
    )


def test_evaluation_is_deterministic_and_training_is_noisy(model):
    image = different_images(1)
    with torch.no_grad():
        first, second = model(image), model(image)
        assert torch.equal(first.reconstruction, second.reconstruction)
        model.train()
        routes = [model(image, output_routes=True).router_probabilities for _ in range(2)]
    assert not torch.equal(*routes)


def test_unchosen_experts_are_not_run(model):
    calls = count_calls(model)
    with torch.no_grad():
        output = model(different_images(4), output_routes=True)
    chosen = (output.routes[:, sum(model.config.encoder_depths) :] > 0).sum(0)  # (hard routers, experts)
    hard_blocks = [module for module in model.modules() if isinstance(module, UniRainHardMoE)]
    ran = torch.tensor([[calls[expert] for expert in block.experts] for block in hard_blocks])
    assert torch.equal(ran, chosen)
    assert (ran == 0).any(), "some expert should have been left out"


def test_given_routes_are_applied_and_ask_no_router(model):
    images = different_images(2)
    with torch.no_grad():
        first = model(images[:1], output_routes=True)
        again = model(images[:1], routes=first.routes, output_routes=True)
        other = model(images[1:], routes=first.routes, output_routes=True)
    assert torch.equal(first.reconstruction, again.reconstruction)
    assert again.router_probabilities is None
    assert torch.equal(other.routes, first.routes)


def test_averages_of_windows_that_make_up_an_image_are_its_own(model):
    image = different_images(3, size=96)[1:2]
    with torch.no_grad():
        whole = model(image, output_routes=True)
    asked = []
    averages = model.compute_averages([(image, slice(0, 96), slice(0, 96))], lambda: asked.append(1))
    torch.testing.assert_close(averages, whole.averages)
    assert [average.shape[1] for average in averages] == model.config.router_sizes
    assert len(asked) == model.config.num_routers
    halves = [  # 48 rows each, with 16 more to see
        (image[:, :, :64], slice(0, 48), slice(0, 96)),
        (image[:, :, 32:], slice(16, 64), slice(0, 96)),
    ]
    with torch.no_grad():
        routes = model(image, averages=model.compute_averages(halves), output_routes=True).routes
    assert torch.equal(routes > 0, whole.routes > 0)
    torch.testing.assert_close(routes, whole.routes, atol=0.003, rtol=0)


def test_cores_count_by_their_area(model):
    """Both windows see the whole image, so that only the averages are put together: two thirds of it and one third."""
    image = different_images(3, size=96)[1:2]
    with torch.no_grad():
        whole = model(image, output_routes=True).averages
    everything = slice(0, 96)
    thirds = [(image, slice(0, 64), everything), (image, slice(64, 96), everything)]
    torch.testing.assert_close(model.compute_averages(thirds), whole)
    differences = zip(model.compute_averages(thirds[:1]), whole, strict=True)
    assert max((some - all_of_it).abs().max() for some, all_of_it in differences) > 0.01


def test_a_part_is_restored_as_in_the_whole_by_the_averages_of_the_whole(model):
    """Far from the part's borders, and not by its own averages: what tiles rest on, routes and modulations both."""
    image = different_images(3, size=96)[1:2] * torch.linspace(0.2, 1, 96)
    with torch.no_grad():
        whole = model(image, output_routes=True)
        part = image[..., :80]
        as_whole = model(part, averages=whole.averages).reconstruction
        routes_only = model(part, routes=whole.routes).reconstruction
    core = (..., slice(0, 16))
    torch.testing.assert_close(as_whole[core], whole.reconstruction[core], atol=1e-4, rtol=0)
    assert (routes_only[core] - whole.reconstruction[core]).abs().max() > 1e-3


def test_modulation_begins_as_the_identity():
    """So that weights from before it go on as they were."""
    torch.manual_seed(0)
    plain = UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny", modulation=False)).eval()
    modulated = UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).eval()
    missing, unexpected = modulated.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all(".modulation." in name for name in missing)
    with torch.no_grad():
        torch.testing.assert_close(
            modulated(different_images(2)).reconstruction, plain(different_images(2)).reconstruction
        )


def test_loss_is_the_mean_absolute_error(model):
    images, labels = different_images(2), different_images(4)[2:]
    with torch.no_grad():
        output = model(images, labels=labels)
    expected = (output.reconstruction.double() - labels.double()).abs().sum() / labels.numel()
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["unirain-tiny", "unirain-base"])
def test_gradients_reach_every_router_and_expert(name):
    torch.manual_seed(0)
    small = {"encoder_hidden_sizes": [8, 8, 8], "decoder_hidden_sizes": [8, 8, 16], "latent_hidden_size": 16}
    one_each = {"encoder_depths": [1, 1, 1], "decoder_depths": [1, 1, 1], "latent_depth": 1, "refinement_depth": 1}
    config = UniRainConfig.from_name(name, router_noise_std=2.0, **(small | one_each if "base" in name else {}))
    model = UniRainForImageDeraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen = set()
    for _ in range(6):
        output = model(different_images(6), labels=different_images(6).flip(0), output_routes=True)
        (output.loss + 0.01 * load_balancing_loss(output)).backward()
        seen |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
        optimizer.zero_grad()
    assert {name for name, _ in model.named_parameters()} - seen == set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixer_type", ["convolution", "attention"])
def test_half_precision_gives_no_nan(dtype, mixer_type):
    torch.manual_seed(0)
    config = UniRainConfig.from_name("unirain-tiny", mixer_type=mixer_type, num_attention_heads=[1, 2, 2])
    model = UniRainForImageDeraining(config).eval().to(dtype)
    images = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64), torch.rand(3, 64, 64)])
    with torch.no_grad():
        output = model(images.to(dtype), output_routes=True)
    assert output.reconstruction.dtype == dtype
    assert output.reconstruction.isfinite().all()
    assert output.routes.dtype == torch.float32 and output.routes.isfinite().all()


def test_activation_checkpointing_gives_equal_gradients():
    def gradients(checkpointing: bool) -> list[torch.Tensor | None]:
        torch.manual_seed(0)
        model = UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        torch.manual_seed(1)  # the routers' noise
        model(different_images(3), labels=different_images(3).flip(0)).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        assert (plain is None) == (checkpointed is None)
        if plain is not None:
            torch.testing.assert_close(plain, checkpointed)


def test_export_takes_dynamic_sizes_and_equals_eager(model):
    divisor = model.config.size_divisor
    batch = torch.export.Dim("batch", min=1, max=8)
    height, width = torch.export.Dim("height", min=1, max=64), torch.export.Dim("width", min=1, max=64)
    exported = torch.export.export(
        model, (different_images(2),), dynamic_shapes=({0: batch, 2: divisor * height, 3: divisor * width},)
    ).module()
    for images in (different_images(3), F.interpolate(different_images(2), (48, 80))):
        with torch.no_grad():
            torch.testing.assert_close(
                exported(images).reconstruction, model(images).reconstruction, rtol=1e-4, atol=1e-5
            )


@pytest.mark.filterwarnings("ignore:.*:torch.jit.TracerWarning", "ignore:.*:DeprecationWarning")
def test_a_traced_network_runs_the_experts_of_each_image(model):
    """Not those alone that were chosen for the images it was traced with."""
    images = different_images(12)
    with torch.no_grad():
        routes = model(images, output_routes=True).routes[:, -model.config.num_experts :]
        traced = torch.jit.trace(model, images[:1], strict=False, check_trace=False)
        assert any(not torch.equal(route > 0, routes[0] > 0) for route in routes)
        for image in images.split(1):
            torch.testing.assert_close(
                traced(image)["reconstruction"], model(image).reconstruction, rtol=1e-4, atol=1e-5
            )


def test_balanced_routing_has_the_least_balancing_loss(model):
    def loss(chosen: list[int], probability: float) -> float:
        probabilities = torch.full((len(chosen), 1, 3), (1 - probability) / 2)
        probabilities[range(len(chosen)), 0, chosen] = probability
        routes = probabilities * F.one_hot(torch.tensor(chosen), 3)[:, None]
        return load_balancing_loss(type(output)(routes=routes, router_probabilities=probabilities)).item()

    with torch.no_grad():
        output = model(different_images(3), output_routes=True)
    assert loss([0, 1, 2], 0.8) == pytest.approx(1.0)
    assert loss([0, 0, 0], 0.8) == pytest.approx(3 * 0.8)
    assert loss([0, 0, 1], 0.8) == pytest.approx(3 * (2 / 3 * (0.8 * 2 + 0.1) / 3 + 1 / 3 * (0.8 + 0.2) / 3))


def test_soft_routers_take_no_part_in_the_balancing_loss():
    config = UniRainConfig.from_name("unirain-tiny", decoder_routing="soft")
    model = UniRainForImageDeraining(config).eval()
    with torch.no_grad():
        assert load_balancing_loss(model(different_images(3), output_routes=True)) == 0


@pytest.mark.parametrize("expert_type", EXPERT_TYPES)
def test_an_expert_sees_as_far_as_its_kind_says(expert_type):
    """Which inputs change the output at the centre: the receptive field that each kind promises."""
    torch.manual_seed(0)
    expert = UniRainExpert(4, 1.0, expert_type).double()
    features = torch.randn(1, 4, 48, 48, dtype=torch.double, requires_grad=True)
    expert(features)[0, :, 24, 24].sum().backward()
    rows, columns = torch.nonzero(features.grad.abs().sum((0, 1)) > 0, as_tuple=True)
    reach_vertical = (rows.max() - rows.min() + 1).item()
    corner = (features.grad[0, :, 24 - 5, 24 - 5].abs().sum() > 0).item()
    if expert_type == "local":
        assert reach_vertical == 3
    elif expert_type == "directional":
        assert reach_vertical == 3 + 9 - 1 and not corner
    else:
        assert reach_vertical >= 12 and corner


@pytest.mark.parametrize("encoder_routing", ["soft", "hard"])
@pytest.mark.parametrize("decoder_routing", ["soft", "hard"])
def test_every_combination_of_routing_runs(encoder_routing, decoder_routing):
    config = UniRainConfig.from_name("unirain-tiny", encoder_routing=encoder_routing, decoder_routing=decoder_routing)
    model = UniRainForImageDeraining(config).eval()
    with torch.no_grad():
        routes = model(different_images(2), output_routes=True).routes
    encoder, decoder = routes.split([sum(config.encoder_depths), sum(config.decoder_depths)], dim=1)
    for part, routing in ((encoder, encoder_routing), (decoder, decoder_routing)):
        assert ((part > 0).sum(-1) == (3 if routing == "soft" else 1)).all()


def test_image_features_tell_images_apart_and_have_the_promised_size(model):
    features = model.get_image_features(different_images(4))
    assert features.shape == (4, model.config.feature_size)
    assert torch.cdist(features, features)[~torch.eye(4, dtype=bool)].min() > 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 3, 33, 32), "33 x 32"), ((1, 4, 32, 32), r"\(1, 4, 32, 32\)"), ((3, 32, 32), r"\(3, 32, 32\)")],
)
def test_a_shape_that_cannot_be_taken_is_named(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_labels_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match="labels"):
        model(different_images(2), labels=different_images(1))


def test_routes_of_another_network_are_refused(model):
    with pytest.raises(ValueError, match="routes"):
        model(different_images(1), routes=torch.ones(1, 99, 3))


def test_averages_of_another_network_are_refused(model):
    with pytest.raises(ValueError, match="averages"):
        model(different_images(1), averages=[torch.ones(1, 99)])


def test_saved_weights_come_back_equal(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = UniRainForImageDeraining.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(different_images(2)).reconstruction, model(different_images(2)).reconstruction)
    for (name, parameter), other in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(parameter, other), name


@pytest.mark.parametrize("devices", [2, 4])
def test_an_automatic_device_map_leaves_the_network_whole(model, devices):
    memory = get_balanced_memory(model, dict.fromkeys(range(devices), 2**34), model._no_split_modules)
    assert len(set(infer_auto_device_map(model, memory, model._no_split_modules).values())) == 1


def test_offloaded_weights_give_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = UniRainForImageDeraining.from_pretrained(
        tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "off"
    )
    with torch.no_grad():
        assert torch.equal(
            loaded.eval()(different_images(2)).reconstruction, model(different_images(2)).reconstruction
        )


def test_a_missing_weight_is_initialised_and_the_others_are_kept(model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if k != "output_projection.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = UniRainForImageDeraining.from_pretrained(tmp_path)
    assert loaded.output_projection.weight.std() > 0
    assert torch.equal(loaded.patch_embed.weight, model.patch_embed.weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_depths": [1]}, "one depth per level"),
        ({"expert_types": ["local", "global"]}, "'local', 'directional' and 'regional'"),
        ({"num_experts_per_tok": 4}, "between 1 and the 3 experts"),
        ({"mixer_type": "attention", "num_attention_heads": [1, 5, 2]}, "5 attention heads"),
        ({"mixer_type": "attention"}, "num_attention_heads"),
        ({"mixer_type": "fourier"}, "fourier"),
        ({"encoder_routing": 3}, "encoder_routing"),
        ({"encoder_expansion": 0.0}, "at least one of"),
        ({"decoder_expansion": 0.01}, "`decoder_expansion` must leave at least one of"),
        ({"feed_forward_expansion": float("nan")}, "at least one of"),
        ({"router_noise_std": -1.0}, "negative"),
        ({"layer_norm_eps": -1.0}, "`layer_norm_eps` must be positive"),
        ({"latent_hidden_size": 0}, "positive"),
        ({"encoder_hidden_sizes": [8, 14]}, "multiples of 4"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(fields, message):
    with pytest.raises(Exception, match=message):
        UniRainConfig.from_name("unirain-tiny", **fields)


def test_overrides_at_loading_are_checked_too(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(Exception, match="between 1 and the 3 experts"):
        UniRainForImageDeraining.from_pretrained(tmp_path, num_experts_per_tok=7)


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(ValueError, match="unirain-base"):
        UniRainConfig.from_name("unirain-huge")


def test_a_misspelt_override_of_a_size_is_not_passed_over():
    with pytest.raises(ValueError, match="no field `modulatoin`"):
        UniRainConfig.from_name("unirain-tiny", modulatoin=False)


def test_config_survives_saving(tmp_path):
    config = UniRainConfig.from_name("unirain-base", router_noise_std=0.5)
    config.save_pretrained(tmp_path)
    assert UniRainConfig.from_pretrained(tmp_path).to_dict() == copy.deepcopy(config).to_dict()


def test_routers_decide_in_float32_under_autocast():
    model = UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = model(torch.rand(2, 3, 32, 32), output_routes=True)
    assert output.routes.dtype == output.router_probabilities.dtype == torch.float32
    torch.testing.assert_close(output.router_probabilities.sum(-1), torch.ones(output.routes.shape[:2]))
