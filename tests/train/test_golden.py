"""The network, the map and the losses against what the published reference implementation computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reason_train.anomaly_map import MapHead
from reason_train.config import MethodConfig
from reason_train.model import ReasonModel, build_model
from tests.golden_weights import GOLDEN, fill, image

TOLERANCE = 1e-4  # of the largest magnitude in the array: float32 convolutions differ by their order of summation


def fill_module(module: nn.Module, component: str) -> None:
    state = {
        key: torch.from_numpy(np.asarray(fill(component, key, tuple(value.shape), 1)))
        for key, value in module.state_dict().items()
    }
    module.load_state_dict(state)


def golden_model(teacher: str) -> ReasonModel:
    model = build_model(MethodConfig(teacher=teacher, method="reason"))
    fill_module(model.teacher, "encoder")
    fill_module(model.suppression, "lns_layer")
    fill_module(model.bottleneck, "bottleneck")
    fill_module(model.student, "decoder")
    return model.eval()


def assert_close(ours: np.ndarray, reference: np.ndarray) -> None:
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("teacher", ["resnet18", "resnet50", "wide_resnet50_2"])
@torch.no_grad()
def test_every_stage_gives_the_reference_values(teacher: str) -> None:
    model, golden = golden_model(teacher), np.load(GOLDEN / f"{teacher}_seed1.npz")
    images = torch.from_numpy(np.concatenate([image(1), image(2)]))
    teacher_features = model.stages(model.teacher.stem(images))
    suppressed = model.suppress(teacher_features)
    embedding = model.bottleneck(suppressed)
    student_features = model.student(embedding)
    for name, scales in [("teacher", teacher_features), ("suppressed", suppressed), ("student", student_features)]:
        for k, feature in enumerate(scales, start=1):
            assert_close(feature[:, :16].mean((2, 3)).numpy(), golden[f"{name}_{k}_mean"])
            assert_close(feature[:, :8, :4, :4].numpy(), golden[f"{name}_{k}_corner"])
    assert_close(embedding[:, :16].mean((2, 3)).numpy(), golden["bottleneck_mean"])
    anomaly_map, score = model.head(teacher_features, student_features)
    assert_close(anomaly_map.numpy(), golden["anomaly_map"])
    assert_close(score.numpy(), golden["score"])
    unblurred = MapHead(size_px=256, sides=[feature.shape[-1] for feature in teacher_features], sigma_px=1e-3)
    assert_close(unblurred(teacher_features, student_features)[0].numpy(), golden["anomaly_map_raw"])
