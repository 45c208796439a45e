"""Commands that measure, and the records they write to ``benchmarks/results/``."""
