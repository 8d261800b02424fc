"""`python -m deployments.local up | down | status`."""

from deployments.local.cli import main

main()
