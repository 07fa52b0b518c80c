"""The project's rooms as one picture."""
