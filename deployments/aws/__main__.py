"""`python -m deployments.aws`: from a stack to a profile."""

from __future__ import annotations

from pathlib import Path

import click

from deployments.aws.fill import fill, stack_values
from reelroute.console import SentenceGroup


@click.group(cls=SentenceGroup)
def main() -> None:
    """What deployments/aws's stacks made, where ReelRoute reads it."""


@main.command("fill")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--stack", required=True, metavar="NAME", help="The stack, as it was deployed.")
@click.option("--region", default="us-east-1", show_default=True)
def fill_command(file: Path, stack: str, region: str) -> None:
    """Write a stack's outputs into FILE: a profile, or deployments/work_pools/ecs.yaml."""
    changed = fill(file, stack_values(stack, region))
    for name, value in changed.items():
        click.echo(f"{name}: {value}")
    click.echo(f"{file}: {len(changed)} settings changed")


if __name__ == "__main__":
    main(prog_name="python -m deployments.aws")
