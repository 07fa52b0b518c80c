"""Pictures to try things on: a photograph that scikit-image ships, and a drawn street that is bundled."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tofc.config import ASSETS
from tofc.errors import UserError

PHOTOGRAPH, STREET = "cat.png", "street.jpg"
EXAMPLES = (PHOTOGRAPH, STREET)


def shipped(package: str, path: str) -> Path | None:
    """A file inside an installed package; None where that is not installed or ships it no more.

    The package is looked up and not imported: importing scikit-learn takes longer than an answer.
    """
    spec = find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((file for folder in folders if (file := Path(folder, path)).is_file()), None)


def example_bytes(name: str) -> bytes:
    """The file of one of `EXAMPLES`.

    Raises `UserError` for another name, and for the photograph where scikit-image is not installed.
    """
    if name == STREET:
        return (ASSETS / STREET).read_bytes()  # drawn by eval.scenes: test scene 511
    if name != PHOTOGRAPH:
        raise UserError(f"there is no example {name!r}; choose from {', '.join(EXAMPLES)}")
    photograph = shipped("skimage", "data/chelsea.png")
    if photograph is None:
        raise UserError(
            f"{PHOTOGRAPH} comes with scikit-image: pip install 'tofc[demo]'; or take any picture of yours, "
            f"or {STREET}, a drawing, for --model scenes-tiny"
        )
    return photograph.read_bytes()
