"""Chaos: the pipeline under injected faults and sudden death, judged from the outside.

What it is judged by is the embedded AWS's call log and what lies in the bucket, never the
pipeline's own word. `python -m benchmarks.chaos --help` says how it is run.
"""
