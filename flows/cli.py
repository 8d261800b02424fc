"""The pipeline's commands, which the `reelroute` command offers in a checkout.

Prefect is imported only by the commands that speak to its server.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from configs.settings import (
    DEFAULT_PROFILE,
    ROOT,
    Settings,
    environment_overrides,
    load_settings,
    parse_value,
)
from data_contracts.evaluation import EvaluationSummary
from data_contracts.runs import STAGES, RunManifest
from flows.inputs import derive_run_id, read_queries_file
from reelroute.aws import AwsAccess
from reelroute.errors import ConfigError, ReelRouteError, StageError
from tasks.runs import RUNS_PREFIX, Run, list_runs
from tasks.storage import Storage, aws_access

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

#: Where `run` and `report` leave a copy of the report.
REPORTS: Final = ROOT / ".reelroute" / "reports"

_config = click.option(
    "--config",
    default=DEFAULT_PROFILE,
    show_default=True,
    metavar="FILE",
    help="The profile, relative to the checkout.",
)


def release_source(config: str | None) -> tuple[str, AwsAccess]:
    """The profile's release pointer and how it is reached."""
    from tasks.releases import POINTER_KEY

    settings = load_settings(config or DEFAULT_PROFILE)
    return f"s3://{settings.storage.bucket}/{POINTER_KEY}", aws_access(settings)


@click.command()
@_config
@click.option("--run", "run_id", metavar="ID", help="Go on with a run that failed or died.")
@click.option("--size", type=int, help="Scale the label plan to this many queries.")
@click.option(
    "--queries",
    "queries_file",
    metavar="FILE",
    help="Own queries, a line each; or the monitor's sample, s3://….jsonl.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Another setting.")
@click.option("--force", is_flag=True, help="Run stages again although nothing has changed.")
@click.option("--dead", is_flag=True, help="With --run: its process on another machine is gone.")
def run(
    config: str,
    run_id: str | None,
    size: int | None,
    queries_file: str | None,
    assignments: tuple[str, ...],
    force: bool,
    dead: bool,
) -> None:
    """Run the pipeline through its deployment and follow it.

    The exit code is 0 if the run completed, also where the gate left the release as it is.
    """
    overrides = _overrides(assignments)
    if size is not None:
        overrides["label.size"] = size
    settings = load_settings(config, overrides)
    storage = Storage(settings)
    storage.check()
    if queries_file:
        if not queries_file.startswith("s3://"):
            queries_file = str(Path(queries_file).resolve())
        read_queries_file(queries_file, storage)
    prefect = _prefect(settings)
    waiting = None
    if run_id:
        from flows.resume import take_over

        parameters = Run(storage, run_id).manifest().parameters
        waiting = take_over(prefect, run_id, known_dead=dead, say=click.echo)
        if parameters:
            overrides = {**parameters.overrides, **overrides}
        if waiting:
            _require_same(waiting, parameters.overrides if parameters else {}, overrides, force)
    ended = _follow(
        prefect,
        settings,
        f"pipeline/{settings.environment}",
        {
            "config": config,
            "run_id": run_id,
            "overrides": overrides,
            "queries_file": queries_file,
            "force": force,
        },
        waiting,
    )
    _show_results(settings, storage, run_id or derive_run_id(str(ended.id)))


@click.command()
@click.argument("name", type=click.Choice(STAGES))
@click.option("--run", "run_id", required=True, metavar="ID", help="The run: an id or `latest`.")
@_config
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Another setting.")
@click.option("--force", is_flag=True, help="Run it again although nothing has changed.")
def stage(name: str, run_id: str, config: str, assignments: tuple[str, ...], force: bool) -> None:
    """Run one stage of a run again, alone."""
    overrides = _overrides(assignments)
    settings = load_settings(config, overrides)
    run_id = _run(settings, run_id).run_id
    _follow(
        _prefect(settings),
        settings,
        f"{name}/{settings.environment}",
        {"config": config, "run_id": run_id, "overrides": overrides, "force": force},
    )


@click.group()
def runs() -> None:
    """Look at the runs in the profile's bucket."""


@runs.command("list")
@_config
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def runs_list(config: str, as_json: bool) -> None:
    """All runs, the newest first."""
    manifests = list_runs(Storage(load_settings(config)))
    if as_json:
        click.echo(json.dumps([_manifest(manifest) for manifest in manifests], indent=2))
        return
    if not manifests:
        click.echo("No runs yet: `reelroute run` starts one.")
    for manifest in manifests:
        created = manifest.parameters.created_at if manifest.parameters else None
        last = [*manifest.stages.values()][-1] if manifest.stages else None
        click.echo(
            f"{manifest.run_id}  {created:%Y-%m-%d %H:%M}  {manifest.status:10s} "
            f"{len(manifest.stages)}/{len(STAGES)} stages  "
            f"{(last.error or last.metrics.get('summary', '')) if last else ''}"
            if created
            else f"{manifest.run_id}  {manifest.status}"
        )


@runs.command("show")
@click.argument("run_id", default="latest")
@_config
@click.option("--json", "as_json", is_flag=True, help="The whole manifest as JSON.")
def runs_show(run_id: str, config: str, as_json: bool) -> None:
    """One run, as the records of its stages tell it."""
    manifest = _run(load_settings(config), run_id).manifest()
    if as_json:
        click.echo(json.dumps(_manifest(manifest), indent=2, ensure_ascii=False))
        return
    click.echo(f"{manifest.run_id}: {manifest.status}")
    for name, record in manifest.stages.items():
        text = record.error or record.metrics.get("summary", "")
        click.echo(
            f"  {name:9s} {record.status:9s} attempt {record.attempt}  {record.seconds:7.1f} s  "
            f"${record.cost.usd:.4f}{' simulated' if record.cost.simulated else ''}  {text}"
        )
    for name in STAGES:
        if name not in manifest.stages:
            click.echo(f"  {name:9s} –")


@runs.command("pull")
@click.argument("run_id")
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
@_config
def runs_pull(run_id: str, folder: Path, config: str) -> None:
    """Copy a run's folder from the bucket to DIR, with its manifest."""
    found = _run(load_settings(config), run_id)
    count = 0
    for key in found.storage.keys(found.prefix):
        stored = found.storage.get(key)
        target = (folder / key.removeprefix(found.prefix)).resolve()
        if stored is None or not target.is_relative_to(folder.resolve()):
            continue
        _write(target, stored.data)
        count += 1
    manifest = json.dumps(_manifest(found.manifest()), indent=2, ensure_ascii=False)
    _write(folder / "manifest.json", f"{manifest}\n".encode())
    click.echo(f"{count} files of {found.run_id} and its manifest: {folder}")


@click.command()
@click.argument("run_id", default="latest")
@_config
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def report(run_id: str, config: str, as_json: bool) -> None:
    """How the candidates of a run compare."""
    found = _run(load_settings(config), run_id)
    manifest = found.manifest()
    summary = _summary(found, manifest)
    if as_json:
        click.echo(json.dumps(_report(manifest, summary), indent=2, ensure_ascii=False))
        return
    if summary is None:
        raise StageError(f"run {found.run_id} has not been evaluated yet")
    from tasks.reporting.summary_table import console_table

    click.echo(console_table(summary))
    click.echo(f"report: {_save_page(found, manifest)}")


@click.command()
@_config
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=REPORTS / "trends.html",
    metavar="FILE",
    help="The page to write; .reelroute/reports/trends.html if none is named.",
)
def trends(config: str, output: Path) -> None:
    """One page with charts over all runs and releases, from their records in the bucket."""
    from tasks.trends import read_trends, trends_page

    storage = Storage(load_settings(config))
    runs, releases = read_trends(storage)
    if not runs:
        raise StageError(
            f"there are no runs in {storage.uri(RUNS_PREFIX)}: `reelroute run` starts one"
        )
    _write(output, trends_page(runs, releases, f"s3://{storage.bucket}").encode())
    click.echo(f"{len(runs)} runs, {len(releases)} releases: {output}")


@click.command()
@_config
def rollback(config: str) -> None:
    """Move the release pointer back to the release before the current one.

    The stable deployment, where the profile has one, follows. After a rollback that was
    interrupted in between, only that is done.
    """
    from tasks.promote import roll_back_with_stable

    settings = load_settings(config)
    roll_back_with_stable(settings, Storage(settings), click.echo)


@click.command()
@_config
@click.option(
    "--logs", metavar="PATH", help="A file or folder of logs, in place of those in the bucket."
)
@click.option(
    "--window-end",
    type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M:%SZ"]),
    help="Where the window ends, in UTC, as in 2026-01-31T14:00; default: the last full one.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Another setting.")
def monitor(
    config: str, logs: str | None, window_end: datetime | None, assignments: tuple[str, ...]
) -> None:
    """Look at a window of production logs, and say what has changed."""
    overrides = _overrides(assignments)
    settings = load_settings(config, overrides)
    if logs and not Path(logs).exists():
        raise ConfigError(f"logs {logs}: there is no such file or folder")
    _follow(
        _prefect(settings),
        settings,
        f"monitor/{settings.environment}",
        {
            "config": config,
            "logs": str(Path(logs).resolve()) if logs else None,
            "window_end": f"{window_end:%Y-%m-%dT%H:%M:%SZ}" if window_end else None,
            "overrides": overrides,
        },
    )


@click.command()
@_config
@click.option("--keep", type=int, metavar="N", help="Releases before the current one to keep.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Another setting.")
def cleanup(config: str, keep: int | None, dry_run: bool, assignments: tuple[str, ...]) -> None:
    """Remove the models, deployments and runs that no kept release or run needs.

    Kept are the current release, those before it (`cleanup.keep`, or --keep) and the newest runs
    (`cleanup.runs`).
    """
    from flows.cleanup import clean_up, counted
    from tasks.lease import holder_of

    overrides = _overrides(assignments)
    if keep is not None:
        overrides["cleanup.keep"] = keep
    settings = load_settings(config, overrides)
    storage = Storage(settings)
    storage.check()
    holder = holder_of(storage, settings.environment)
    if holder and not dry_run and settings.schedule.collision == "enqueue":
        click.echo(f"run {holder.run_id} is at work: cleanup waits until it has ended …")
    removed = clean_up(settings, storage, click.echo, dry_run=dry_run)
    click.echo(counted(removed, dry_run=dry_run))
    if not removed:
        click.echo(
            f"What the newest {settings.cleanup.runs} runs use stays (`cleanup.runs`), and what "
            f"{settings.cleanup.keep} releases before the current one do (`cleanup.keep`)."
        )


_SIGNS: Final = {"ok": "ok", "note": "–", "warning": "WARNING", "error": "ERROR"}


@click.command()
@_config
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def doctor(config: str, as_json: bool) -> None:
    """Look whether the account has what the profile needs; changes nothing.

    The exit code is 1 if there is an error.
    """
    from dataclasses import asdict

    from tasks.doctor import Setup, diagnose

    found = []
    for finding in diagnose(Setup(load_settings(config))):
        found.append(finding)
        if not as_json:
            click.echo(f"{_SIGNS[finding.level]:8s} {finding.about:22s} {finding.says}")
            if finding.mend:
                click.echo(f"{'':31s} → {finding.mend}")
    levels = [finding.level for finding in found]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        click.echo(
            f"{levels.count('ok')} ok, {levels.count('warning')} warnings, "
            f"{levels.count('error')} errors"
        )
    if "error" in levels:
        raise SystemExit(1)


@click.command()
@_config
@click.option("--size", type=int, help="Scale the label plan to this many queries.")
@click.option("--queries", "queries_file", metavar="FILE", help="Own queries, a line each.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Another setting.")
def estimate(
    config: str, size: int | None, queries_file: str | None, assignments: tuple[str, ...]
) -> None:
    """What a run may cost, stage by stage, beside the budget; asks for nothing."""
    from tasks.estimate import estimate as expected
    from tasks.estimate import estimate_text

    overrides = _overrides(assignments)
    if size is not None:
        overrides["label.size"] = size
    settings = load_settings(config, overrides)
    own = None
    if queries_file:
        try:
            text = Path(queries_file).read_text("utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"queries {queries_file}: {error.strerror}") from None
        own = [line for line in text.splitlines() if line.strip()]
    click.echo(estimate_text(settings, expected(settings, own)))


COMMANDS: Final[dict[str, click.Command]] = {
    "run": run,
    "stage": stage,
    "runs": runs,
    "report": report,
    "trends": trends,
    "monitor": monitor,
    "estimate": estimate,
    "rollback": rollback,
    "cleanup": cleanup,
    "doctor": doctor,
}


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise ReelRouteError(f"{path} can't be written: {error.strerror}") from None


def _overrides(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Settings from the environment and from `--set`, which the run takes along.

    A flow runs in another process, so what this process's environment sets must be named.
    """
    overrides = {
        name: value
        for name, value in environment_overrides().items()
        if not name.startswith("prefect.")
    }
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {assignment!r}: write it as KEY=VALUE, as in label.size=500")
        overrides[name] = parse_value(text)
    return overrides


def _prefect(settings: Settings) -> SyncPrefectClient:
    from flows.follow import client, use_server

    use_server(settings)
    return client()


def _require_same(
    waiting: FlowRun, of_run: dict[str, Any], overrides: dict[str, Any], force: bool
) -> None:
    """Raise unless the flow run that waits will do what is asked for now."""
    its = {**of_run, **(waiting.parameters.get("overrides") or {})}
    if its != overrides or bool(waiting.parameters.get("force")) != force:
        raise ReelRouteError(
            f"flow run {waiting.name!r} waits to start on this run with other settings, or "
            "another --force, than given now: follow it without them, or cancel it in the UI and "
            "run again"
        )


def _follow(
    prefect: SyncPrefectClient,
    settings: Settings,
    deployment: str,
    parameters: dict[str, Any],
    waiting: FlowRun | None = None,
) -> FlowRun:
    from flows.follow import follow, start_flow_run

    flow_run = waiting or start_flow_run(prefect, deployment, parameters)
    ui = str(settings.prefect.api_url or prefect.api_url).rstrip("/").removesuffix("/api")
    click.echo(f"{deployment}: {ui}/runs/flow-run/{flow_run.id}")
    ended = follow(prefect, flow_run, click.echo)
    state = ended.state
    if state is None or not state.is_completed():
        what = f"{state.name}: {state.message}" if state else "nothing"
        raise ReelRouteError(
            f"{deployment} ended as {what}{_next_step(deployment, settings, ended)}"
        )
    click.echo(f"{deployment}: {state.message}")
    return ended


def _next_step(deployment: str, settings: Settings, ended: FlowRun) -> str:
    """How to go on with a pipeline's run, if it began: one that was refused left nothing."""
    if not deployment.startswith("pipeline/") or ended.state_name not in ("Failed", "Crashed"):
        return ""
    run_id = ended.parameters.get("run_id") or derive_run_id(str(ended.id))
    if Run(Storage(settings), run_id).parameters() is None:
        return ""
    return f"\nGo on with `reelroute run --run {run_id}`, or Retry in the UI"


def _show_results(settings: Settings, storage: Storage, run_id: str) -> None:
    from tasks.reporting.summary_table import console_table

    found = _run(settings, run_id)
    manifest = found.manifest()
    summary = _summary(found, manifest)
    if summary:
        click.echo()
        click.echo(console_table(summary))
        click.echo(f"report: {_save_page(found, manifest)}")
        click.echo(f"        {storage.uri(found.key('evaluation/'))}")


def _run(settings: Settings, run_id: str) -> Run:
    """A run that is there; `latest` names the newest."""
    storage = Storage(settings)
    if run_id == "latest":
        manifests = list_runs(storage)
        if not manifests:
            raise StageError(
                f"there are no runs in {storage.uri(RUNS_PREFIX)}: `reelroute run` starts one"
            )
        run_id = manifests[0].run_id
    found = Run(storage, run_id)
    found.manifest()
    return found


def _summary(found: Run, manifest: RunManifest) -> EvaluationSummary | None:
    record = manifest.stages.get("evaluate")
    if record is None or "summary" not in record.files:
        return None
    return EvaluationSummary.model_validate_json(found.storage.read(record.files["summary"]))


def _save_page(found: Run, manifest: RunManifest) -> Path:
    """A copy of the report's page on this machine."""
    page = found.storage.read(manifest.stages["evaluate"].files["page"])
    path = REPORTS / f"{found.run_id}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page)
    return path


def _manifest(manifest: RunManifest) -> dict[str, Any]:
    return {
        **manifest.model_dump(mode="json"),
        "status": manifest.status,
        "cost": manifest.cost.model_dump(mode="json"),
    }


def _report(manifest: RunManifest, summary: EvaluationSummary | None) -> dict[str, Any]:
    """What `report --json` prints."""
    return {
        "run_id": manifest.run_id,
        "stages": {
            name: {"status": record.status, "seconds": round(record.seconds, 3)}
            for name, record in manifest.stages.items()
        },
        "candidates": [
            {
                "name": scores.name,
                "rubric": scores.rubric,
                "rubric_interval": list(scores.rubric_interval),
                "judge": scores.judge,
                "mae": scores.mae,
                "dominant_match": scores.dominant_match,
                "valid_rate": scores.valid_rate,
                "latency_ms": scores.latency_ms.model_dump(include={"mean", "p50", "p99"}),
                "cost_per_1k_usd": scores.cost_per_1k_usd,
                "simulated_cost": scores.simulated_cost,
            }
            for scores in (summary.benchmark if summary else ())
        ],
    }
