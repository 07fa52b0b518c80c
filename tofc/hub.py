"""`encoders.files` for the product: the same files, and faults that a person can put right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from encoders import files
from tofc.errors import CheckpointError, UserError

if TYPE_CHECKING:
    import torch

    from entropy import FeatureCodec
    from tofc.config import Checkpoint


@contextmanager
def checkpoint_faults() -> Iterator[None]:
    """Turns files that are missing, damaged or out of reach into a CheckpointError with the same words."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(" ".join(str(error).split())) from error


# As they stand in `encoders.files`, but for CheckpointError in place of what they raise there.
fetch = checkpoint_faults()(files.fetch)
small_files = checkpoint_faults()(files.small_files)
fetch_all = checkpoint_faults()(files.fetch_all)
read_json = checkpoint_faults()(files.read_json)


def read_tensors(
    source: str | Path, wanted: Callable[[str], bool], device: str | torch.device = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, tensor) of a safetensors checkpoint, reading no byte of what is not `wanted`."""
    with checkpoint_faults():  # for as long as somebody reads
        yield from files.read_tensors(source, wanted, device)


def load_codec(checkpoint: Checkpoint) -> FeatureCodec:
    """The codec of a checkpoint; CheckpointError where it has none."""
    from entropy import FeatureCodec  # which takes longer to import than all else here
    from entropy.parameters import FILE_NAME

    if not checkpoint.has_codec:
        raise CheckpointError(
            f"{checkpoint.name} is a plain LLaVA-OneVision model without codec: it gives features and "
            "answers, but no packets. Give a checkpoint of tofc that has it as its base"
        )
    with checkpoint_faults():
        return FeatureCodec.load(fetch(checkpoint.folder, FILE_NAME))
