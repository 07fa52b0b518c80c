"""Pictures to try things on: a photograph that scikit-image ships, and a drawn street that is bundled."""

from __future__ import annotations

from importlib.resources import files

from tofc.config import ASSETS
from tofc.errors import UserError

PHOTOGRAPH, STREET = "cat.png", "street.jpg"
EXAMPLES = (PHOTOGRAPH, STREET)


def example_bytes(name: str) -> bytes:
    """The file of one of `EXAMPLES`.

    Raises `UserError` for another name, and for the photograph where scikit-image is not installed.
    """
    if name == STREET:
        return (ASSETS / STREET).read_bytes()  # drawn by eval.scenes: test scene 511
    if name != PHOTOGRAPH:
        raise UserError(f"there is no example {name!r}; choose from {', '.join(EXAMPLES)}")
    try:
        pictures = files("skimage") / "data"
    except ModuleNotFoundError:
        raise UserError(
            f"{PHOTOGRAPH} comes with scikit-image: pip install 'tofc[demo]'; or take any picture of yours, "
            f"or {STREET}, a drawing, for --model scenes-tiny"
        ) from None
    return (pictures / "chelsea.png").read_bytes()
