"""How one step is done: retryable Prefect tasks, one module a stage."""
