"""`python -m benchmarks.chaos`: prints one table, exits with 1 if an invariant was broken."""

from __future__ import annotations

import sys
from collections import Counter

import click

from benchmarks.chaos.trials import FAULTS, Row, fault_trial, kill_trial, settled
from benchmarks.chaos.world import world
from reelroute.errors import ReelRouteError


@click.command()
@click.option("--kills", type=click.IntRange(0), default=60, show_default=True)
@click.option(
    "--faults",
    "kinds",
    default=",".join(FAULTS),
    metavar="KIND,…",
    help=f"Out of {', '.join(FAULTS)}; empty for none. Default: all.",
)
@click.option("--rate", type=float, default=0.1, show_default=True, help="Share of calls hit.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--aws-port", type=click.IntRange(0, 65535), default=0, help="0: any free one.")
@click.option("--prefect-port", type=click.IntRange(0, 65535), default=0, help="0: any free one.")
def main(kills: int, kinds: str, rate: float, seed: int, aws_port: int, prefect_port: int) -> None:
    """The pipeline under every fault and under SIGKILL, judged by what it leaves behind."""
    chosen = [kind for kind in kinds.split(",") if kind]
    unknown = [kind for kind in chosen if kind not in FAULTS]
    if unknown:
        raise ReelRouteError(f"there is no fault {unknown[0]!r}: choose of {', '.join(FAULTS)}")
    rows: list[Row] = []
    with world(aws_port, prefect_port) as place:
        base = settled(place)
        took = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in base.seconds.items())
        click.echo(f"undisturbed run: {sum(base.seconds.values()):.1f} s ({took})")
        for kind in chosen:
            rows.append(fault_trial(place, kind, base, rate, seed))
            click.echo(_line(rows[-1]))
            for violation in rows[-1].violations:
                click.echo(f"  violation: {violation}")
        if kills:
            rows.append(_killed(kill_trial(place, base, kills, seed, click.echo)))
    click.echo()
    click.echo(_HEADER)
    for row in rows:
        click.echo(_line(row))
    violations = [f"{row.name}: {text}" for row in rows for text in row.violations]
    click.echo(f"{len(violations)} violations")
    for text in violations:
        click.echo(f"  {text}")
    sys.exit(bool(violations))


def _killed(trial: tuple[Row, Counter[str]]) -> Row:
    row, hit = trial
    click.echo("kills by stage: " + ", ".join(f"{stage} {n}" for stage, n in hit.items()))
    return row


_HEADER = (
    f"{'fault':20s} {'runs':>5s} {'starts':>7s} {'hits':>6s} {'violations':>11s} "
    f"{'extra calls':>12s} {'allowed':>10s} {'seconds':>8s}"
)


def _line(row: Row) -> str:
    return (
        f"{row.name:20s} {row.runs:5d} {row.starts:7d} {row.kills or row.hits:6d} "
        f"{len(row.violations):11d} {row.extra_calls:12d} {row.allowed:10d} {row.seconds:8.1f}"
    )


if __name__ == "__main__":
    main()
