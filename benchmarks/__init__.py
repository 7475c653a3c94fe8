"""The measurements behind docs/benchmarks.md; not installed with the toolkit."""
