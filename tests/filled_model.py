"""Models whose every tensor is a function of its name, as in the golden files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from reason_train.config import MethodConfig
from reason_train.model import ReasonModel, build_model
from tests.golden_weights import fill

COMPONENTS = {"teacher": "encoder", "suppression": "lns_layer", "bottleneck": "bottleneck", "student": "decoder"}


def filled_state(module: nn.Module, component: str) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(np.asarray(fill(component, key, tuple(value.shape), 1)))
        for key, value in module.state_dict().items()
    }


def filled_model(method: MethodConfig) -> ReasonModel:
    """In evaluation mode."""
    model = build_model(method)
    for part, component in COMPONENTS.items():
        module = getattr(model, part)
        if module is not None:
            module.load_state_dict(filled_state(module, component))
    return model.eval()
