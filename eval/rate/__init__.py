"""Accuracy against bytes: many systems, many rate points, one model."""
