"""What the user can put right: every error whose message is meant for a person, not for a developer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

# What the extra `edge` installs, and a device by itself does without.
_EDGE_LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "huggingface_hub")


class UserError(ValueError):
    """A fault in what was asked for or handed in; the message says what is wrong and what to do.

    The command line prints it as one line and exits with code 2. Anything else that is raised is our fault.
    """


class ConfigError(UserError):
    """A configuration that cannot be used: an unknown key, a value out of range, an unreadable file."""


class CheckpointError(UserError):
    """A model that cannot be loaded: no such name, a missing file, parts that do not fit together."""


class ImageError(UserError):
    """A picture that cannot be used: no image, damaged, without pixels, or above the pixel limit."""


class PacketError(UserError):
    """Bytes that are not a whole packet, or a packet that this model or this version cannot decode."""


class MissingLibraryError(UserError):
    """A library that an extra installs, and that is not there."""


def is_installed(library: str) -> bool:
    """Whether a library could be imported; it is not."""
    try:
        return find_spec(library) is not None
    except (ModuleNotFoundError, ValueError):  # who keeps it from being imported says so in these words
        return False


@contextmanager
def needs_edge(what: str) -> Iterator[None]:
    """Turns a missing PyTorch or transformers inside of it into a MissingLibraryError; `what` needs them."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        if library not in _EDGE_LIBRARIES:
            raise
        raise MissingLibraryError(
            f"{what} needs {library}, which is not installed: pip install 'tofc[edge]'. Without it, "
            "tofc.Device reads what `tofc export-device` wrote"
        ) from error


@contextmanager
def needs_extra(extra: str, who: str = "this needs") -> Iterator[None]:
    """Turns a library of an `extra` that is missing, in it or what it decorates, into MissingLibraryError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("tofc", "eval", "entropy", "encoders"):
            raise
        raise MissingLibraryError(
            f"{error.name} is not installed; {who} an extra: pip install 'tofc[{extra}]'"
        ) from None


class EdgeUnreachable(UserError):
    """An edge that did not answer within the time and the number of tries that it was given."""
