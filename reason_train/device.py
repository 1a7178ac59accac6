"""Which device trains, and whether it multiplies in bf16 by itself."""

from __future__ import annotations

import torch

from reason_runtime.environment import usable_cores
from reason_runtime.errors import ConfigurationError
from reason_train.config import DeviceName


def find_device(name: DeviceName) -> torch.device:
    """The device to use; `auto` is CUDA where there is a GPU.

    On a GPU, float32 convolutions are float32 from then on: PyTorch would give them the mantissa of half precision
    (TF32), and scores that no other backend gives. What may be coarser runs in bf16 and says so.

    Raises:
        ConfigurationError: CUDA was asked for and is not there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigurationError(
            "--device cuda: PyTorch finds no CUDA GPU; check nvidia-smi and the installed torch, or use --device cpu"
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 is in hardware: tensor cores on a GPU, AMX or AVX-512 BF16 on a CPU; elsewhere it is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported: bool = torch.cpu._is_avx512_bf16_supported()  # PyTorch has no public question for it
    return supported


def leaves_cores_idle(device: torch.device) -> bool:
    """Whether other work may run beside a step: where every core multiplies, the slowest one holds up all."""
    return device.type == "cuda" or torch.get_num_threads() < usable_cores()
