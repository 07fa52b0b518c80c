"""Evaluation of TOFC: the embedded scenes benchmark, baselines, curves and reports."""
