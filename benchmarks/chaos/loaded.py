"""What a start of the pipeline needs, imported once for all (see `start.preload`)."""

import great_expectations  # noqa: F401

import flows.pipeline  # noqa: F401
