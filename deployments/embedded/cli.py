"""The command line of the embedded AWS."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deployments.embedded import process
from deployments.embedded.credentials import PROFILE, REGION
from deployments.embedded.faults import KINDS, make_fault
from reelroute.console import SentenceGroup
from reelroute.errors import ReelRouteError

#: The exit code of `status` when the server is down.
DOWN = 3


def _state_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        default=process.DEFAULT_STATE,
        show_default=".reelroute/embedded in the checkout",
        help="The folder for credentials, process id and log.",
    )(command)


def _port_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--port", type=click.IntRange(0, 65535), default=process.DEFAULT_PORT, show_default=True
    )(command)


@click.group(cls=SentenceGroup)
def main() -> None:
    """AWS on this machine: S3 and the rest of moto, with a Bedrock that trains and answers."""


@main.command()
@_port_option
@click.option("--bucket", default=process.DEFAULT_BUCKET, show_default=True)
@_state_option
def up(port: int, bucket: str, state: Path) -> None:
    """Start the server in the background and make its bucket."""
    server, started = process.up(port, bucket, state)
    click.echo(
        f"The embedded AWS is {'up' if started else 'up already'} at {server.endpoint_url} "
        f"(process {server.pid}), bucket {bucket}."
    )
    click.echo(f"  AWS_SHARED_CREDENTIALS_FILE={state / 'credentials'}")
    click.echo(
        f"  AWS_PROFILE={PROFILE} AWS_REGION={REGION} AWS_ENDPOINT_URL={server.endpoint_url}"
    )


@main.command()
@_state_option
def down(state: Path) -> None:
    """Stop the server; everything that it held is gone."""
    stopped = process.down(state)
    click.echo("The embedded AWS is down." if stopped else "The embedded AWS was not up.")


@main.command()
@_state_option
def status(state: Path) -> None:
    """Say whether the server is up; exit code 3 if it is not."""
    server = process.running(state)
    if server is None:
        click.echo("The embedded AWS is down.")
        sys.exit(DOWN)
    calls = process.control(server, "GET", "calls/summary")["calls"]
    click.echo(
        f"The embedded AWS is up at {server.endpoint_url} (process {server.pid}), "
        f"{calls:,} calls so far."
    )


@main.command()
@_port_option
@_state_option
def serve(port: int, state: Path) -> None:
    """Run the server in the foreground, without a bucket."""
    process.serve(port, state)


@main.command()
@click.argument("kind", type=click.Choice([*KINDS, "list", "clear"]))
@click.option("--rate", type=float, default=1.0, show_default=True, help="Share of calls it hits.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which it hits.")
@click.option("--style", help="How answers are spoilt; `list` shows the styles.")
@click.option(
    "--operation",
    "operations",
    multiple=True,
    metavar="NAME",
    help="Only calls of this operation of the service's API (may be repeated).",
)
@click.option("--seconds", type=float, default=1.0, help="How much longer slow calls take.")
@click.option("--times", type=int, default=0, help="The most calls that it hits; 0: all.")
@_state_option
def fault(
    kind: str,
    rate: float,
    seed: int,
    style: str | None,
    operations: tuple[str, ...],
    seconds: float,
    times: int,
    state: Path,
) -> None:
    """Switch a fault on, list what there is and what is on, or clear all."""
    server = process.running(state)
    if server is None:
        raise ReelRouteError(
            "the embedded AWS is down: start it with `python -m deployments.embedded up`"
        )
    if kind == "clear":
        faults = process.control(server, "DELETE", "faults")["on"]
    elif kind == "list":
        faults = process.control(server, "GET", "faults")["on"]
        for name, known in KINDS.items():
            styles = f" ({', '.join(known.styles)})" if known.styles else ""
            click.echo(f"  {name:19s} {known.says}{styles}")
    else:
        chosen = make_fault(kind, rate, seed, style, operations, seconds, times)
        faults = process.control(server, "POST", "faults", asdict(chosen))["on"]
    for entry in faults:
        style_shown = f" in the style {entry['style']}" if entry["style"] else ""
        if entry["operations"]:
            style_shown += f" at {', '.join(entry['operations'])}"
        click.echo(
            f"{entry['kind']}{style_shown}: rate {entry['rate']:g}, seed {entry['seed']}, "
            f"{entry['hits']} hits so far"
        )
    if not faults:
        click.echo("No fault is on.")
