"""A page to try the bitstream on: `tofc demo-ui` serves it, with device and edge in one process."""
