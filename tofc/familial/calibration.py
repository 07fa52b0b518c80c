"""What goes into each linear layer of some blocks: their inputs' covariances, gathered while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tofc.familial.decomposition import Covariance, Spectrum, Whitening, decompose


def linears(block: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a decoder block by their names in it, e.g. `self_attn.q_proj`."""
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}


@contextmanager
def watch_inputs(
    blocks: Mapping[Any, nn.Module], counts: Callable[[], Tensor | None] = lambda: None
) -> Iterator[dict[Any, dict[str, Covariance]]]:
    """Sums the covariances of everything that passes the linear layers of `blocks` inside the `with`.

    `counts` tells of each pass which of its positions count, bool [B, L]: padding does not; None for all.
    Gives them by block and layer. UserError as soon as an input is not finite.
    """
    found = {
        key: {
            name: Covariance(layer.in_features, f"block {key}, {name}") for name, layer in linears(b).items()
        }
        for key, b in blocks.items()
    }
    handles = []
    for key, block in blocks.items():
        for name, layer in linears(block).items():
            covariance = found[key][name]

            def look(_: nn.Module, inputs: tuple[Any, ...], into: Covariance = covariance) -> None:
                chosen = counts()
                into.add(inputs[0] if chosen is None else inputs[0][chosen])

            handles.append(layer.register_forward_pre_hook(look))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def spectra(block: nn.Module, covariances: Mapping[str, Covariance]) -> dict[str, Spectrum]:
    """The whitened decomposition of every linear layer of a block.

    Layers that see the same inputs (query, key and value; gate and up) are whitened alike, but each on its
    own: covariances are small beside the pass that gathers them.
    """
    return {
        name: decompose(layer.weight, Whitening.of(covariances[name]))
        for name, layer in linears(block).items()
    }
