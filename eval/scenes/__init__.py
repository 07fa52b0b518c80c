"""Embedded benchmark: street scenes whose content is known exactly, and questions about them."""
