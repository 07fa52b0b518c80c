"""What the benchmarks share: drawing and wording questions, scoring and exporting them."""
