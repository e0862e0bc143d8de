"""Grad-CAM over torch networks: right, for any architecture, and without a trace afterwards."""

from __future__ import annotations

import copy
import sys
import threading

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from contracts import noise
from torch import nn

from cascade.config import ClassifierConfig
from cascade.data.synthetic import draw_lesion
from cascade.errors import ConfigError, MissingExtraError, ShapeError
from cascade.explain import explain, heat_inside
from cascade.explain.gradcam import GradCAM
from cascade.explain.layers import find_layer
from cascade.lesion.masking import MaskPolicy
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.network import Normalization
from cascade.pipeline import Cascade

HALF = (0.5, 0.5, 0.5)


def build(architecture, size=64, *, seed=0):
    """A fresh network whose statistics and last layer are those of one in use."""
    torch.manual_seed(seed)
    return settled(Classifier.build(ClassifierConfig(architecture=architecture, size=size)))


def wrapped(network, size):
    """A network that no name stands for, as a classifier."""
    torch.manual_seed(0)
    config = ClassifierConfig(architecture="timm/test_resnet", size=size)
    return settled(Classifier(config, MaskPolicy(), network, Normalization(HALF, HALF, size=size)))


def settled(classifier):
    last = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    if last:
        nn.init.normal_(last[-1].weight)
        nn.init.normal_(last[-1].bias)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that it sees
    with torch.no_grad():
        classifier.train()(torch.from_numpy(noise(8, classifier.size)))
    return classifier.eval()


def activation_map(classifier, images, **options):
    with GradCAM(classifier) as maps:
        return maps.activation_map(images, **options)


@pytest.fixture(scope="module")
def small():
    """A tiny network of timm; leave it as it is."""
    return build("timm/test_resnet")


IMAGES = noise(3, 64)


def features_and_head(classifier):
    network = classifier.network
    if classifier.config.architecture.endswith("mobilenet_v2"):
        return network.features, network.classifier[-1]
    return nn.Sequential(*list(network.children())[:-2]), network.fc


@pytest.mark.parametrize(
    ("architecture", "target"), [("mobilenet_v2", "benign"), ("timm/test_resnet", "malignant")]
)
def test_after_a_mean_and_one_layer_it_is_the_class_activation_map(architecture, target):
    classifier = build(architecture)
    features, head = features_and_head(classifier)
    with torch.no_grad():
        maps = features(classifier.normalization(torch.from_numpy(IMAGES)))
        classes = torch.einsum("kc,nchw->knhw", head.weight, maps).numpy()
        logits = classifier(torch.from_numpy(IMAGES)).numpy()
        bias = head.bias.numpy()
    index = ["benign", "malignant"].index(target)
    expected = classes[index] - classes[1 - index]
    found = activation_map(classifier, IMAGES, target=target)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    log_odds = (logits - bias)[:, index] - (logits - bias)[:, 1 - index]
    np.testing.assert_allclose(found.mean(axis=(1, 2)), log_odds, rtol=1e-3, atol=1e-3)


def test_channels_are_weighed_by_their_summed_gradient_and_nothing_else(small):
    """For any network, here with a second layer behind the mean, by plain autograd."""
    classifier = copy.deepcopy(small)
    classifier.network.fc = nn.Sequential(nn.Linear(96, 8), nn.Tanh(), nn.Linear(8, 2))
    stem = nn.Sequential(*list(classifier.network.children())[:-2])
    maps = stem(classifier.normalization(torch.from_numpy(IMAGES))).detach().requires_grad_()
    logits = classifier.network.fc(classifier.network.global_pool(maps))
    (logits[:, 1] - logits[:, 0]).sum().backward()
    weights = maps.grad.sum(dim=(2, 3), keepdim=True)
    expected = (weights * maps).sum(dim=1).detach().numpy()
    np.testing.assert_allclose(activation_map(classifier, IMAGES), expected, rtol=1e-4, atol=1e-5)


def tiny_torchvision_vit():
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=2,
    )  # fmt: skip


def tiny_torchvision_swin():
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=12, depths=[1, 1, 1], num_heads=[1, 1, 1],
        window_size=[4, 4], num_classes=2,
    )  # fmt: skip


def tiny_timm_swin():
    return timm.create_model(
        "swinv2_tiny_window8_256", img_size=64, embed_dim=12, depths=(1, 1, 1),
        num_heads=(1, 1, 1), num_classes=2, window_size=4,
    )  # fmt: skip


NETWORKS = {
    "torchvision/squeezenet1_1": (None, "classifier.2", (3, 3)),
    "torchvision/densenet121": (None, "features", (2, 2)),
    "torchvision VisionTransformer": (
        tiny_torchvision_vit, "encoder.layers.encoder_layer_1.ln_1", (4, 4),
    ),
    "torchvision SwinTransformer": (tiny_torchvision_swin, "norm", (4, 4)),
    "timm/test_vit": (None, "blocks.5.norm1", (4, 4)),
    "timm/test_convnext": (None, "norm_pre", (2, 2)),
    "timm/test_mambaout": (None, "stages", (2, 2)),
    "timm/test_nfnet": (None, "final_act", (2, 2)),
    "timm SwinTransformerV2": (tiny_timm_swin, "norm", (4, 4)),
    "timm/xcit_nano_12_p16_224": (None, "blocks.11.norm1", (4, 4)),
}  # fmt: skip
"""Name to how it is built (by default by its name), its layer, and the size of its map."""
UNUSUAL = [
    "torchvision VisionTransformer", "torchvision SwinTransformer", "timm/test_vit",
    "timm/test_mambaout", "timm SwinTransformerV2", "timm/xcit_nano_12_p16_224",
]  # fmt: skip
"""Those with tokens or with the channels last."""


@pytest.fixture(scope="module", params=NETWORKS)
def known(request):
    make, layer, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    classifier = build(request.param) if make is None else wrapped(make(), 64)
    return classifier, layer, shape


def test_every_family_has_its_layer_and_a_map(known):
    classifier, layer, shape = known
    with GradCAM(classifier) as maps:
        found = maps.activation_map(IMAGES)
    chosen = find_layer(classifier.network, lambda: classifier.predict_proba(IMAGES))
    assert chosen.module is classifier.network.get_submodule(layer)
    assert found.shape == (3, *shape)
    assert np.isfinite(found).all()
    assert found.std() > 0


@pytest.mark.parametrize("known", UNUSUAL, indirect=True)
def test_a_place_of_the_map_is_the_same_place_of_the_image(known):
    """Whatever the order of channels and tokens: what changes at the top right changes there."""
    classifier, _, (height, width) = known
    layer = find_layer(classifier.network, lambda: classifier.predict_proba(IMAGES))
    seen = []
    hook = layer.module.register_forward_hook(
        lambda module, inputs, output: seen.append(layer.as_maps(output.clone()))
    )
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    changed = grey.copy()
    changed[:, :16, -16:] = noise(1, 16)
    classifier.predict_proba(grey)
    classifier.predict_proba(changed)
    hook.remove()
    assert seen[0].shape[2:] == (height, width)
    difference = (seen[0] - seen[1]).abs().sum(dim=(0, 1)).numpy()
    row, column = np.unravel_index(difference.argmax(), difference.shape)
    assert (row, column) == (0, width - 1)


class Strange(nn.Module):
    """A class token, which no layer's maps account for, and a layer that is never run."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.idle = nn.Conv2d(3, 4, 8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.patches(images).mean(dim=(2, 3)) + self.cls_token[:, 0])


class Flat(nn.Module):
    """No maps at all."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(3 * 32 * 32, 2)

    def forward(self, images):
        return self.dense(images.flatten(1))


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (Flat, None, "Flat has no layer"),
        (Strange, None, r"Strange has no layer.*layer=NAME"),
        (Strange, "idle", "does not change the class"),
        (Strange, "layer9", r"'layer9'.*cls_token|'layer9'.*patches"),
        (Strange, "head", r"Linear is \(1, 2\)"),
    ],
)
def test_what_has_no_map_is_refused_and_not_guessed(network, layer, message):
    classifier = wrapped(network(), 32)
    with pytest.raises(ConfigError, match=message), GradCAM(classifier, layer=layer) as maps:
        maps.activation_map(noise(1, 32))


def test_a_layer_of_ones_own_choice_gives_its_map():
    with GradCAM(wrapped(Strange(), 32), layer="patches") as maps:
        assert maps.activation_map(noise(1, 32)).shape == (1, 4, 4)


def test_an_ensemble_has_the_weighted_mean_of_its_members_maps():
    members = [build("timm/test_resnet", seed=seed) for seed in (1, 2)]
    members[1].temperature = 3.0
    ensemble = ClassifierEnsemble(members, [0.25, 0.75])
    expected = 0.25 * activation_map(members[0], IMAGES) + 0.75 * activation_map(members[1], IMAGES)
    np.testing.assert_allclose(activation_map(ensemble, IMAGES), expected, rtol=1e-5)


def test_members_with_coarser_maps_are_brought_to_the_finest():
    members = [build("timm/test_resnet"), build("timm/test_vit")]
    coarse, fine = (activation_map(member, IMAGES) for member in members)
    assert coarse.shape[1:] == (2, 2)
    assert fine.shape[1:] == (4, 4)
    coarse = np.stack([cv2.resize(one, (4, 4), interpolation=cv2.INTER_LINEAR) for one in coarse])
    ensemble = ClassifierEnsemble(members, [0.5, 0.5])
    np.testing.assert_allclose(activation_map(ensemble, IMAGES), (coarse + fine) / 2, rtol=1e-4)


def hook_count(classifier):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in classifier.modules() for kind in kinds)


def state_of(classifier):
    return (
        [module.training for module in classifier.modules()],
        [item.requires_grad for item in classifier.parameters()],
        [None if item.grad is None else item.grad.clone() for item in classifier.parameters()],
        [tensor.clone() for tensor in classifier.state_dict().values()],
        hook_count(classifier),
    )


def assert_same_state(before, after):
    assert before[:2] == after[:2]
    for place in (2, 3):
        for first, second in zip(before[place], after[place], strict=True):
            assert (first is None and second is None) or torch.equal(first, second)
    assert before[4] == after[4]


@pytest.fixture
def half_trained(small):
    """A network in the middle of training: partly frozen, with gradients that wait for a step."""
    classifier = copy.deepcopy(small).train()
    classifier.network.layer1.eval()
    for parameter in classifier.network.layer1.parameters():
        parameter.requires_grad_(False)
    classifier(torch.from_numpy(IMAGES)).square().sum().backward()
    return classifier


def test_the_network_is_as_it_was(half_trained):
    before = state_of(half_trained)
    with GradCAM(half_trained) as maps:
        maps.activation_map(IMAGES)
        assert hook_count(half_trained) == 1
        assert not any(module.training for module in half_trained.modules())
    assert_same_state(before, state_of(half_trained))
    half_trained(torch.from_numpy(IMAGES)).square().sum().backward()
    assert half_trained.network.fc.weight.grad is not None


@pytest.mark.parametrize("layer", ["layer9", None])
def test_the_network_is_as_it_was_after_an_error_too(half_trained, layer):
    before = state_of(half_trained)
    with pytest.raises((ShapeError, ConfigError)), GradCAM(half_trained, layer=layer) as maps:
        maps.activation_map(IMAGES.astype(np.float32))
    assert_same_state(before, state_of(half_trained))


def test_it_works_within_inference_mode(small):
    expected = activation_map(small, IMAGES)
    with torch.inference_mode():
        np.testing.assert_array_equal(activation_map(small, IMAGES), expected)


def test_a_network_that_was_made_in_inference_mode_is_refused_with_the_way_out():
    with torch.inference_mode():
        classifier = Classifier.build(ClassifierConfig(architecture="timm/test_resnet", size=32))
    with pytest.raises(ConfigError, match="load it outside"), GradCAM(classifier):
        pass


def test_blocks_may_be_opened_again_and_within_each_other(small):
    before = state_of(small)
    outer = GradCAM(small)
    with pytest.raises(ConfigError, match="with GradCAM"):
        outer.activation_map(IMAGES)
    with outer, GradCAM(small) as inner:
        expected = inner.activation_map(IMAGES)
        np.testing.assert_array_equal(outer.activation_map(IMAGES), expected)
        with pytest.raises(ConfigError, match="open already"), outer:
            pass
        with pytest.raises(ConfigError, match="benign, malignant"):
            outer.activation_map(IMAGES, target="melanoma")
    with outer:
        np.testing.assert_array_equal(outer.activation_map(IMAGES), expected)
    assert_same_state(before, state_of(small))


def test_an_ensemble_whose_second_member_fails_leaves_no_trace_of_the_first(small):
    ensemble = ClassifierEnsemble([copy.deepcopy(small), build("timm/test_vit")])
    before = state_of(ensemble)
    maps = GradCAM(ensemble, layer="layer3")
    for _ in range(2):
        with pytest.raises(ConfigError, match="no layer 'layer3'"), maps:
            pass
    assert_same_state(before, state_of(ensemble))


def test_threads_explain_in_turn_and_predict_meanwhile(small):
    batches = [noise(2, 64, seed=seed) for seed in range(4)]
    expected = [(activation_map(small, batch), small.predict_proba(batch)) for batch in batches]
    wrong, together = [], threading.Barrier(8)

    def work(place, explaining):
        together.wait()
        for _ in range(2):
            batch = batches[place]
            found = activation_map(small, batch) if explaining else small.predict_proba(batch)
            if not np.array_equal(found, expected[place][0 if explaining else 1]):
                wrong.append((place, explaining))

    threads = [
        threading.Thread(target=work, args=(place, explaining))
        for place in range(4)
        for explaining in (True, False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert hook_count(small) == 0


def test_without_the_library_the_error_names_the_extra(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    before = state_of(small)
    with pytest.raises(MissingExtraError, match=r"cascade\[explain\]"), GradCAM(small):
        pass
    assert_same_state(before, state_of(small))


def test_a_cascade_of_torch_is_explained_for_the_crop_that_it_saw(small, fake_segmenter, lesion):
    cascade = Cascade(fake_segmenter, small)
    (prediction,) = cascade([lesion.image])
    found = explain(cascade, lesion.image, prediction, target="benign")
    (activation,) = activation_map(small, prediction.crop[None], target="benign")
    top, left, bottom, right = prediction.crop_box
    heat = np.maximum(activation, 0) / activation.max()
    expected = cv2.resize(heat, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    assert top >= 0
    assert left >= 0
    assert not found.is_empty
    np.testing.assert_allclose(found.heat_map[top:bottom, left:right], expected, atol=1e-5)
    assert hook_count(small) == 0


def lesions_to_tell_apart(count, *, seed):
    """Lesions anywhere in a 64 px image; every second one is red, and called malignant."""
    random = np.random.default_rng(seed)
    images, masks = [], []
    for number in range(count):
        drawn = draw_lesion(random, malignant=False, shape=(64, 64))
        image = drawn.image.astype(float)
        if number % 2:
            image[drawn.mask] = image[drawn.mask] * (1, 0.4, 0.4) + (60, 0, 0)
        shift = random.integers(-16, 17, 2)
        images.append(np.roll(image.clip(0, 255).astype(np.uint8), shift, (0, 1)))
        masks.append(np.roll(drawn.mask, shift, (0, 1)))
    return np.stack(images), np.stack(masks)


def likeness(first, second):
    """Mean correlation of two networks' maps of the same images."""
    pairs = zip(first, second, strict=True)
    return np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs])


def concentration(maps, masks):
    """Mean over images of the heat's share within the lesion, divided by the lesion's area."""
    values = []
    for one, mask in zip(maps, masks, strict=True):
        heat = cv2.resize(np.maximum(one, 0), (64, 64), interpolation=cv2.INTER_LINEAR)
        share, _ = heat_inside(heat, mask, (0, 0, 64, 64))
        values.append((share or 0.0) / mask.mean())
    return np.mean(values)


def test_the_heat_of_a_trained_network_is_not_that_of_a_randomised_one():
    def heat(classifier):
        with GradCAM(classifier, layer="layer3") as maps:  # 4 x 4 places
            return maps.activation_map(images)

    images, masks = (array[1::2] for array in lesions_to_tell_apart(24, seed=1))
    trained, (crops, _) = build("timm/test_resnet").train(), lesions_to_tell_apart(48, seed=0)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.003)
    order = torch.Generator().manual_seed(0)
    for _ in range(20):
        batch = torch.randperm(48, generator=order)[:16]
        logits = trained(torch.from_numpy(crops[batch]))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, batch % 2).backward()
        optimizer.step()
    learned = heat(trained.eval())
    assert concentration(learned, masks) > 2, "it found where the redness is"

    nearly = copy.deepcopy(trained)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in nearly.parameters():
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
    assert likeness(learned, heat(nearly)) > 0.95, "and does not depend on a hair"

    randomised = [heat(build("timm/test_resnet", seed=seed)) for seed in range(10, 13)]
    assert np.mean([likeness(learned, other) for other in randomised]) < 0.4
    assert max(concentration(other, masks) for other in randomised) < 2
