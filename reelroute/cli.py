"""The `reelroute` command.

`route` belongs to the library. In a checkout with the pipeline extra the pipeline's commands
are there too: the one place where the library looks at the application around it, lazily.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reelroute import __version__
from reelroute.aws import AwsAccess
from reelroute.errors import ReelRouteError
from reelroute.routers import Router, check_query

if TYPE_CHECKING:
    from types import ModuleType

RELEASE_VARIABLE = "REELROUTE_RELEASE"


def _pipeline_commands() -> ModuleType | None:
    """`flows.cli`, where the application lies around the library and can be imported."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "flows" / "cli.py").is_file() or not importlib.util.find_spec("prefect"):
        return None
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    import flows.cli

    return flows.cli


class _Commands(click.Group):
    """The library's own commands, then the pipeline's; errors are sentences."""

    def list_commands(self, context: click.Context) -> list[str]:
        pipeline = _pipeline_commands()
        return [*super().list_commands(context), *(pipeline.COMMANDS if pipeline else ())]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        own = super().get_command(context, name)
        if own:
            return own
        pipeline = _pipeline_commands()
        return pipeline.COMMANDS.get(name) if pipeline else None

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ReelRouteError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reelroute")
def main() -> None:
    """Intent routing for video search: weigh the channels of a query, and keep the router fresh."""


@main.command()
@click.argument("query", required=False)
@click.option(
    "--input", "source", type=click.Path(exists=True, dir_okay=False), help="A query a line."
)
@click.option(
    "--output", type=click.Path(dir_okay=False), help="A JSON object a line; default: stdout."
)
@click.option(
    "--release",
    metavar="URI",
    envvar=RELEASE_VARIABLE,
    help="s3://bucket/releases/current.json or a file; default: the profile's current release.",
)
@click.option("--config", metavar="FILE", help="The profile that names the release.")
def route(
    query: str | None,
    source: str | None,
    output: str | None,
    release: str | None,
    config: str | None,
) -> None:
    """Weigh QUERY, or every line of a file, with the current release."""
    if (query is None) == (source is None):
        raise click.UsageError("give either a QUERY or --input FILE")
    queries = [check_query(query)] if query is not None else list(_read_queries(str(source)))
    router = _router(release, config)
    lines = [
        json.dumps(
            {
                "query": text,
                **weights.as_dict(),
                "reasoning": weights.reasoning,
                "router": weights.router,
            },
            ensure_ascii=False,
        )
        for text, weights in zip(queries, router.route_many(queries), strict=True)
    ]
    text = "".join(f"{line}\n" for line in lines)
    if output:
        _write_whole(Path(output), text)
        click.echo(f"{len(lines)} queries routed: {output}", err=True)
    else:
        click.echo(text, nl=False)


def _router(release: str | None, config: str | None) -> Router:
    if release:
        return _opened(release, AwsAccess())
    pipeline = _pipeline_commands()
    if pipeline is None:
        raise ReelRouteError(
            f"no release named: give --release URI or set {RELEASE_VARIABLE}, for example to "
            "s3://bucket/releases/current.json"
        )
    return _opened(*pipeline.release_source(config))


def _opened(uri: str, access: AwsAccess) -> Router:
    """The router of one command: it follows nothing and says what it can't reach."""
    return Router.from_release(uri, access, follow_seconds=None, deadline_ms=None, fallback=False)


def _read_queries(source: str) -> Iterator[str]:
    for number, line in enumerate(Path(source).read_bytes().splitlines(), start=1):
        try:
            text = line.decode("utf-8")
            if text.strip():
                yield check_query(text)
        except UnicodeDecodeError:
            raise ReelRouteError(
                f"{source}, line {number} is not UTF-8: save it as UTF-8"
            ) from None
        except ReelRouteError as error:
            raise ReelRouteError(f"{source}, line {number}: {error}") from None


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ReelRouteError(f"{path} can't be written: {error.strerror}") from None


if __name__ == "__main__":
    main()
