"""What collaborative decoding gains: measured with processes, simulated, and counted for large shapes."""
