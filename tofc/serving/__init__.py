"""Device and edge apart: the HTTP server of an edge, its client, and the estimate of the link between them.

A request goes through `limits` (size, time, key), `schema` and `requests` (what is asked, checked before any
work), `engine` and `decoding` (one thread that owns the model), and back out of `server`.
"""
