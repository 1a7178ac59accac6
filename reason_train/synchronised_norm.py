"""Batch normalisation over the images of all processes: what one process with the whole batch would compute."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def synchronise_batch_norms(model: nn.Module) -> None:
    """Replace every batch normalisation that trains by one over all processes, with the same tensors and names."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.BatchNorm2d) and all(weight.requires_grad for weight in layer.parameters()):
                setattr(module, name, SynchronisedBatchNorm(layer))


class SynchronisedBatchNorm(nn.Module):
    """`nn.BatchNorm2d` whose batch is that of all processes; a process may have no image at all.

    Mean and variance are summed one after the other, as squares minus squares would lose half of the digits.
    PyTorch's `SyncBatchNorm` does the same on GPUs and refuses tensors of a CPU.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.momentum = 0.1 if layer.momentum is None else layer.momentum
        for name, tensor in layer.named_buffers():
            self.register_buffer(name, tensor)
        self.train(layer.training)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) of this process to the same shape and type."""
        if not self.training:
            return F.batch_norm(feature, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values = feature.to(torch.promote_types(feature.dtype, torch.float32))
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums: Tensor = _SumOverRanks.apply(torch.cat([values.sum((0, 2, 3)), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = values - mean[None, :, None, None]
        variance: Tensor = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(feature.dtype)


class _SumOverRanks(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of their gradients, since each of them used the sum."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
