"""Figures for papers and pages: one look, and files that are the same whenever they are drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofc.errors import needs_extra
from tofc.writing import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, VERMILION, ORANGE, PURPLE = "#0072B2", "#D55E00", "#E69F00", "#CC79A7"
GREEN, SKY, GREY, BROWN, BLACK = "#009E73", "#56B4E9", "#7F7F7F", "#8C564B", "#000000"
_LOOK: dict[str, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "tofc",
    "svg.fonttype": "none",
}


def require_matplotlib(extra: str = "eval") -> None:
    """UserError where matplotlib is missing: before minutes of work, not after."""
    with needs_extra(extra, "figures need"):
        import matplotlib.figure  # noqa: F401  # asked for alone


@contextmanager
def drawn(targets: Sequence[Path], size: tuple[float, float], **look: Any) -> Iterator[Figure]:
    """A figure of some inches that is saved to every target when the block ends; folders are made.

    `look` are matplotlib's settings beside the common ones. Errors of `require_matplotlib`.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {**_LOOK, **look}  # matplotlib names each setting in its types
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        for target in targets:
            with whole_file(target) as draft:
                figure.savefig(draft, dpi=300, metadata={"Date": None} if target.suffix == ".svg" else {})
