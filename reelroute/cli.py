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
from reelroute.console import SentenceGroup
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


class _Commands(SentenceGroup):
    """The library's own commands, then the pipeline's."""

    def list_commands(self, context: click.Context) -> list[str]:
        pipeline = _pipeline_commands()
        return [*super().list_commands(context), *(pipeline.COMMANDS if pipeline else ())]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        own = super().get_command(context, name)
        if own:
            return own
        pipeline = _pipeline_commands()
        return pipeline.COMMANDS.get(name) if pipeline else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reelroute")
def main() -> None:
    """Intent routing for video search: weigh the channels of a query, and keep the router fresh."""


_release_option = click.option(
    "--release",
    metavar="URI",
    envvar=RELEASE_VARIABLE,
    help="s3://bucket/releases/current.json or a file; default: the profile's current release.",
)
_config_option = click.option(
    "--config", metavar="FILE", help="The profile that names the release."
)


@main.command()
@click.argument("query", required=False)
@click.option(
    "--input",
    "source",
    type=click.Path(exists=True, dir_okay=False),
    help="A query a line or, in a .jsonl file, a JSON object with a `query` a line.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False), help="A JSON object a line; default: stdout."
)
@_release_option
@_config_option
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
    router = _opened(*_source(release, config))
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


@main.command()
@_release_option
@_config_option
@click.option("--host", help="Where to listen.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Where to listen; 0 takes a free port.  [default: 8080]")
@click.option("--workers", type=int, help="Processes that share the port.  [default: 1]")
@click.option(
    "--log-queries/--no-log-queries",
    default=None,
    help="Whether the text of queries stands in the log.  [default: no]",
)
@click.option("--max-body-bytes", type=int, help="Longer bodies are refused.  [default: 1048576]")
@click.option("--max-batch", type=int, help="Queries in one request at most.  [default: 256]")
@click.option(
    "--follow-seconds",
    type=float,
    help="How often the release pointer is looked at; 0 never.  [default: 30]",
)
@click.option(
    "--deadline-ms",
    type=float,
    help="The longest a query waits for a model behind the network; 0 waits.  [default: 2000]",
)
def serve(release: str | None, config: str | None, **options: Any) -> None:
    """Serve the current release over HTTP: POST /v1/route; /openapi.json describes it.

    Each option can also stand in the environment, as in REELROUTE_SERVICE__MAX_BATCH=50.
    """
    if not all(map(importlib.util.find_spec, ("fastapi", "uvicorn", "prometheus_client"))):
        raise ReelRouteError("the service needs more packages: pip install 'reelroute[service]'")
    from reelroute.service.command import serve_release
    from reelroute.service.settings import load_service_settings

    settings = load_service_settings(options)
    serve_release(*_source(release, config), settings)


def _source(release: str | None, config: str | None) -> tuple[str, AwsAccess]:
    """The release pointer that a command routes with, and how it is reached."""
    if release:
        return release, AwsAccess()
    pipeline = _pipeline_commands()
    if pipeline is None:
        raise ReelRouteError(
            f"no release named: give --release URI or set {RELEASE_VARIABLE}, for example to "
            "s3://bucket/releases/current.json"
        )
    source: tuple[str, AwsAccess] = pipeline.release_source(config)
    return source


def _opened(uri: str, access: AwsAccess) -> Router:
    """The router of one command: it follows nothing and says what it can't reach."""
    return Router.from_release(uri, access, follow_seconds=None, deadline_ms=None, fallback=False)


def _read_queries(source: str) -> Iterator[str]:
    """The queries of a file, blank lines left out.

    Raises:
        ReelRouteError: a line is not UTF-8 or no query; the message names it.
    """
    read = _query_of if source.endswith(".jsonl") else str
    for number, line in enumerate(Path(source).read_bytes().splitlines(), start=1):
        try:
            text = line.decode("utf-8-sig")
            if text.strip():
                yield check_query(read(text))
        except UnicodeDecodeError:
            raise ReelRouteError(
                f"{source}, line {number} is not UTF-8: save it as UTF-8"
            ) from None
        except ReelRouteError as error:
            raise ReelRouteError(f"{source}, line {number}: {error}") from None


def _query_of(line: str) -> str:
    """The `query` of a JSON object; its other keys are ignored."""
    try:
        query = json.loads(line)["query"]
    except (ValueError, KeyError, TypeError, RecursionError):
        query = None
    if not isinstance(query, str):
        raise ReelRouteError("a line of a .jsonl file is a JSON object with a text as `query`")
    return query


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
