"""The demo behind `make demo`: bundled questions about pictures, answered through the bitstream."""
