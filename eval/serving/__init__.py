"""Measures a server under load, and a client over a shaped link."""
