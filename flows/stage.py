"""A stage as a flow: its record, its skipping, its errors as sentences.

`stage_flow` turns the body of a stage into a Prefect flow with the parameters `run_id`,
`config`, `overrides` and `force`. The flow compares the hashes of the stage's inputs with its
latest record, skips the body where nothing has changed and the outputs still verify, and
leaves one record for every attempt whose end was seen.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.states import Completed, Failed

from configs.settings import DEFAULT_PROFILE, ROOT, PromptName, Settings, load_settings
from data_contracts.runs import Stage, StageRecord
from flows.resume import note_process
from flows.turn import stage_turn
from reelroute import __version__
from reelroute.errors import ReelRouteError, StageError
from reelroute.release import sha256
from tasks.base import StageContext, StageResult, code_hash, logger
from tasks.cost import CostMeter
from tasks.runs import Run
from tasks.storage import Storage

#: Prefect's run form takes the help texts of parameters from a docstring's arguments.
PARAMETERS = """\
Args:
    run_id: The run whose stage is run.
    config: The profile, relative to the checkout.
    overrides: Settings that differ from the profile, as {"label.size": 1000}.
    force: Run again even where nothing has changed, as a new attempt.
"""

StageBody = Callable[[StageContext], StageResult]


class _SentenceOfFailedRun(logging.Filter):
    """Prefect's engine logs a flow run that ended as Failed with a trace of its own insides."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FailedRun):
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_SentenceOfFailedRun())


def stage_flow(
    stage: Stage,
    *,
    reads: Sequence[Stage] = (),
    settings: Sequence[str] = (),
    prompts: Sequence[PromptName] = (),
    files: Sequence[str] = (),
    more_inputs: Callable[[Settings, Run], dict[str, str]] | None = None,
    still_there: Callable[[Settings, StageRecord], bool] | None = None,
) -> Callable[[StageBody], Flow[..., Any]]:
    """Make a stage's body its flow.

    Args:
        stage: its name.
        reads: the stages whose files and resources it needs.
        settings: the sections of the profile that its outputs depend on.
        prompts: the prompts that its outputs depend on.
        files: further files of the checkout that its outputs depend on.
        more_inputs: further hashes, by name.
        still_there: whether what the record says was made in AWS still is.
    """

    def wrap(body: StageBody) -> Flow[..., Any]:
        module = f"tasks.{stage}"

        def stage_run(
            run_id: str,
            config: str = DEFAULT_PROFILE,
            overrides: dict[str, Any] | None = None,
            force: bool = False,
        ) -> State[Any]:
            note_process()
            try:
                run, typed = open_run(run_id, config, overrides)
                with stage_turn(run, typed):
                    begun = _begin(run, typed, force)
                    return _attempt(begun, body) if isinstance(begun, StageContext) else begun
            except ReelRouteError as error:
                return Failed(message=str(error))

        def _begin(run: Run, typed: Settings, force: bool) -> StageContext | State[Any]:
            """What the body works with, or the state of a stage that is skipped."""
            upstream = {name: run.completed(name) for name in reads}
            inputs = _inputs(typed, run, upstream)
            records = run.records(stage)
            latest = records[-1] if records else None
            if latest and not force and _holds(latest, inputs, run, typed):
                return Completed(
                    name="Skipped",
                    message=f"nothing has changed since attempt {latest.attempt}: "
                    f"{latest.metrics.get('summary', '')}",
                )
            attempt = latest.attempt + 1 if latest else 1
            spent = sum((record.cost.usd for record in run.records()), 0.0)
            return StageContext(
                settings=typed,
                run=run,
                stage=stage,
                attempt=attempt,
                inputs=inputs,
                upstream=upstream,
                meter=CostMeter(typed.budget.usd_per_run, spent),
                forced=force,
                starts=run.note_start(stage, attempt),
            )

        def _inputs(
            typed: Settings, run: Run, upstream: dict[Stage, StageRecord]
        ) -> dict[str, str]:
            inputs = {
                "settings": typed.section_hash(*settings),
                "code": code_hash(module),
                **{f"prompt {name}": typed.prompt(name).sha256 for name in prompts},
                **{f"file {name}": sha256((ROOT / name).read_bytes()) for name in files},
                **(more_inputs(typed, run) if more_inputs else {}),
            }
            for name, record in upstream.items():
                made = {key: file.sha256 for key, file in record.files.items()}
                text = json.dumps([made, record.resources], sort_keys=True)
                inputs[f"stage {name}"] = sha256(text.encode())
            return inputs

        def _holds(latest: StageRecord, inputs: dict[str, str], run: Run, typed: Settings) -> bool:
            return (
                latest.status == "completed"
                and latest.inputs == inputs
                and all(run.storage.verify(file) for file in latest.files.values())
                and (still_there is None or still_there(typed, latest))
            )

        # A deployment is found again by module and name: those of the stage, not of this closure.
        stage_run.__module__ = body.__module__
        stage_run.__name__, stage_run.__qualname__ = body.__name__, body.__qualname__
        stage_run.__doc__ = f"{inspect.getdoc(body)}\n\n{PARAMETERS}"
        return flow(
            name=stage,
            flow_run_name=f"{stage} {{run_id}}",
            description=inspect.getdoc(body),
            persist_result=False,
        )(stage_run)

    return wrap


def _attempt(context: StageContext, body: StageBody) -> State[Any]:
    """Run the body and write the attempt's record, whatever its end."""
    started_at = datetime.now(UTC)

    def record(
        status: Literal["completed", "failed"], result: StageResult, error: str | None = None
    ) -> None:
        context.run.write_record(
            StageRecord(
                run_id=context.run.run_id,
                stage=context.stage,
                attempt=context.attempt,
                status=status,
                inputs=context.inputs,
                files=result.files,
                resources=result.resources,
                metrics={**result.metrics, **_repeats(context), "summary": result.summary},
                cost=result.cost,
                error=error,
                started_at=started_at,
                ended_at=datetime.now(UTC),
                version=code_version(),
            )
        )

    try:
        try:
            result = body(context)
        except ReelRouteError as error:
            record("failed", StageResult(summary="", cost=context.meter.cost), str(error))
            return Failed(message=str(error))
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            record("failed", StageResult(summary="", cost=context.meter.cost), message)
            raise
        record("completed", result)
    except ReelRouteError as error:
        return Failed(message=str(error))
    logger().info("%s: %s", context.stage, result.summary)
    return Completed(message=result.summary)


def _repeats(context: StageContext) -> dict[str, int]:
    """How often an attempt was started, and how many model calls its kills may have repeated.

    What was in flight at a kill, or on the way to the store, was bought and could not be stored.
    """
    settings, evaluate = context.settings, context.settings.evaluate
    in_flight = {
        "label": settings.label.at_work,
        "deploy": 1,
        "evaluate": max(evaluate.concurrency, evaluate.judge_concurrency)
        if evaluate.judge == "converse"
        else evaluate.concurrency,
        "promote": int(settings.deploy.mode == "stable"),
    }.get(context.stage, 0)
    kills = context.starts - 1
    return {"starts": context.starts, "calls_repeated_at_most": kills * in_flight} if kills else {}


def run_stage(
    stage: Flow[..., Any], run_id: str, config: str, overrides: dict[str, Any] | None, force: bool
) -> State[Any]:
    """Run a stage's flow; the state that it ended in."""
    return cast(State[Any], cast(Any, stage)(run_id, config, overrides, force, return_state=True))


def open_run(run_id: str, config: str, overrides: dict[str, Any] | None) -> tuple[Run, Settings]:
    """A run that was started before, with the settings that hold for it.

    The profile is read as it is now (so that a threshold can be changed and its stage run
    again); the overrides that the run was started with hold on.

    Raises:
        ConfigError: the profile is wrong.
        StageError: there is no such run.
        AwsError: the bucket can't be reached.
    """
    settings = load_settings(config, overrides)
    run = Run(Storage(settings), run_id)
    parameters = run.parameters()
    if parameters is None:
        raise StageError(
            f"there is no run {run_id!r} in s3://{settings.storage.bucket}; "
            "`reelroute runs list` shows those that are"
        )
    if parameters.environment != settings.environment:
        raise StageError(
            f"run {run_id} belongs to environment {parameters.environment!r}, the profile "
            f"{config} to {settings.environment!r}: name that environment's profile"
        )
    return run, load_settings(config, {**parameters.overrides, **(overrides or {})})


def code_version() -> str:
    """The version of the code: the package's, with the commit where git tells it."""
    head = Path(ROOT / ".git" / "HEAD")
    try:
        text = head.read_text().strip()
        if text.startswith("ref: "):
            text = (ROOT / ".git" / text.removeprefix("ref: ")).read_text().strip()
    except OSError:
        return __version__
    return f"{__version__}+{text[:12]}"
