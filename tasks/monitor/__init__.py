"""Monitoring: production logs to aggregates, drift, a report, and queries for the next run."""
