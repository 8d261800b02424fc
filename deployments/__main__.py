"""`python -m deployments deploy | worker`."""

from deployments.cli import main

main(prog_name="python -m deployments")
