"""Benchmarks: each prints its regime, a table and, last, one JSON line."""
