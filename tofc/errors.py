"""What the user can put right: every error whose message is meant for a person, not for a developer."""

from __future__ import annotations


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
