"""A finished sweep as one HTML page that needs nothing but itself."""

from eval.rate.report.page import write

__all__ = ["write"]
