"""`python -m deployments.embedded`."""

from deployments.embedded.cli import main

if __name__ == "__main__":
    main(prog_name="python -m deployments.embedded")
