"""The local profile on this machine: embedded AWS, Prefect server and worker."""
