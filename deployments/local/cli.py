"""Everything that the local profile needs, in the background of this machine."""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import click

from configs.settings import DEFAULT_PROFILE, Settings, load_settings
from deployments.deploy import deploy
from deployments.embedded import process as embedded
from deployments.local import services
from deployments.names import pool_name
from reelroute.console import SentenceGroup
from reelroute.errors import ConfigError

DOWN = 3


_config = click.option("--config", default=DEFAULT_PROFILE, show_default=True, metavar="FILE")


@click.group(cls=SentenceGroup)
def main() -> None:
    """The embedded AWS, a Prefect server and a worker, on this machine."""


@main.command()
@_config
def up(config: str) -> None:
    """Start what is not up yet; another Prefect server is used only if the profile names it."""
    settings = load_settings(config)
    port = _local_port(settings.aws.endpoint_url, "aws.endpoint_url")
    api_url = _api_url(settings)
    server, started = embedded.up(port, settings.storage.bucket, embedded.DEFAULT_STATE)
    click.echo(f"embedded AWS    {_word(started)}  {server.endpoint_url}")
    started = services.start_prefect_server(api_url)
    click.echo(f"Prefect server  {_word(started)}  {api_url.removesuffix('/api')}")
    lines: list[str] = []
    with ThreadPoolExecutor() as pool:
        workers: list[Future[bool]] = []
        deploy(
            config,
            lines.append,
            lambda: workers.append(pool.submit(services.start_worker, settings, api_url)),
        )
        started = workers[0].result()
    deployed = sum(line.startswith("deployment ") for line in lines)
    click.echo(
        f"deployments     up to date  {deployed} flows of environment {settings.environment}"
    )
    click.echo(f"worker          {_word(started)}  work pool {pool_name(settings.environment)}")


@main.command()
def down() -> None:
    """Stop all three; what the embedded AWS held is gone, Prefect's history stays."""
    for name, stopped in (
        ("worker", services.stop("worker")),
        ("Prefect server", services.stop("prefect-server")),
        ("embedded AWS", embedded.down(embedded.DEFAULT_STATE)),
    ):
        click.echo(f"{name:15s} {'stopped' if stopped else 'was not up'}")


@main.command()
def status() -> None:
    """Say what is up; exit code 3 unless all three are."""
    aws = embedded.running(embedded.DEFAULT_STATE)
    up = {
        "embedded AWS": aws is not None,
        "Prefect server": services.running("prefect-server") is not None,
        "worker": services.running("worker") is not None,
    }
    for name, is_up in up.items():
        click.echo(f"{name:15s} {'up' if is_up else 'down'}")
    if not all(up.values()):
        sys.exit(DOWN)


def _word(started: bool) -> str:
    return "started   " if started else "up already"


def _api_url(settings: Settings) -> str:
    api_url = settings.prefect.api_url
    if api_url is None:
        raise ConfigError("the profile names no Prefect server: set `prefect.api_url`")
    _local_port(api_url, "prefect.api_url")
    return api_url


def _local_port(url: str | None, name: str) -> int:
    parts = urlsplit(url or "")
    if parts.hostname not in ("127.0.0.1", "localhost") or not parts.port:
        raise ConfigError(
            f"`{name}` is {url!r}; what is started here has an address like http://127.0.0.1:PORT"
        )
    return parts.port
