"""How fast, and in how much memory, queries are labelled: `python -m benchmarks.label`."""
