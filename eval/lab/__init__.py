"""The laboratory of all evaluations: rows, intervals, curves, tables, figures and parts of reports.

An evaluation writes rows (`rows`), sums them up with intervals over pictures (`tallies`, `intervals`),
compares curves of accuracy against bytes (`curves`), and shows what it found (`tables`, `figures`, `report`).
"""
