"""The laboratory of all evaluations: rows, intervals, curves, tables and figures.

An evaluation writes rows (`rows`), sums them up with intervals over pictures (`intervals`),
compares curves of accuracy against bytes (`curves`), and shows what it found (`terminal`, `figures`).
"""
