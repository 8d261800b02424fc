"""`python -m deployments.local up|down|status|runner`."""

from deployments.local.cli import main

main()
