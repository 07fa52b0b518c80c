"""CompressAI's factorised prior as a density for `entropy.TrainableCodec`; coding never needs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from entropy.prior import Density, LogisticMixture


def make_density(name: str, seed: int) -> Density:
    """The factorised prior called `name`: "entropy_bottleneck" (CompressAI's) or "logistic" (torch alone).

    seed: of its initial values. Raises ValueError for another name, ImportError naming what to install.
    """
    if name == "logistic":
        return LogisticMixture
    if name == "entropy_bottleneck":
        return lambda channels: EntropyBottleneckDensity(channels, seed)
    raise ValueError(f"prior is {name!r}; choose one of entropy_bottleneck, logistic")


class EntropyBottleneckDensity(nn.Module):
    """The non-parametric univariate density of CompressAI's EntropyBottleneck, one for each channel.

    Source: J. Balle et al., "Variational image compression with a scale hyperprior", ICLR 2018, appendix 6.1.
    """

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        try:
            from compressai.entropy_models import EntropyBottleneck
        except ImportError as error:
            raise ImportError(
                "training with the prior entropy_bottleneck needs CompressAI: pip install 'tofc[train]', "
                "or set prior: logistic"
            ) from error
        with torch.random.fork_rng(devices=[]):  # it draws its first values from the global generator
            torch.manual_seed(seed)
            self.bottleneck = EntropyBottleneck(channels, init_scale=4, filters=(3, 3))
        self.bottleneck.quantiles.requires_grad_(False)  # medians are CompressAI's coder's affair,
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):  # so are these: empty, not to be stored
            self.bottleneck.register_buffer(name, getattr(self.bottleneck, name), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """values: [channels, n]. Returns the mass of [value - 0.5, value + 0.5], same shape."""
        # The call with quantisation would draw noise from the global generator; values come noisy or rounded.
        likelihood, _, _ = self.bottleneck._likelihood(values[:, None])
        return self.bottleneck.likelihood_lower_bound(likelihood[:, 0])
