"""Deploying to Prefect, and working for it."""

from __future__ import annotations

import click

from configs.settings import DEFAULT_PROFILE, load_settings
from deployments.deploy import deploy
from deployments.worker import run_worker
from reelroute.console import SentenceGroup

_config = click.option("--config", default=DEFAULT_PROFILE, show_default=True, metavar="FILE")


@click.group(cls=SentenceGroup)
def main() -> None:
    """ReelRoute's deployments in Prefect, and workers for them."""


@main.command("deploy")
@_config
def deploy_command(config: str) -> None:
    """Create or update the environment's work pool, deployments and automations."""
    deploy(config, click.echo)


@main.command()
@_config
def worker(config: str) -> None:
    """Run the environment's flow runs on this machine, in the foreground."""
    run_worker(load_settings(config))
