"""The pipeline's own artifact: what became of every stage, on one page that is kept up to date."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State

from configs.settings import Settings
from data_contracts.runs import NO_COST, STAGES, StageRecord
from tasks.base import logger
from tasks.reporting.text import inert
from tasks.runs import Run

KEY = "pipeline"
DESCRIPTION = "The stages of the run, what they made in AWS, and where its files are"


class Overview:
    """A table of the stages that is written again after each of them; one artifact a run."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run, self._settings = run, settings
        self._rows: dict[str, str] = {}
        self._id: Any = create_markdown_artifact(
            key=KEY, markdown=self._markdown([]), description=DESCRIPTION
        )

    def add(self, stage: str, state: State[Any]) -> None:
        """Enter a stage's end, in the log and in the table."""
        logger().info("%s: %s: %s", stage, state.name, state.message)
        records = self._run.records()
        record = next((r for r in reversed(records) if r.stage == stage), None)
        seconds = f"{record.seconds:.1f}" if record else ""
        cost = f"{record.cost.usd:.4f}{' sim.' if record.cost.simulated else ''}" if record else ""
        self._rows[stage] = (
            f"| {stage} | {state.name} | {record.attempt if record else ''} | {seconds} | {cost} "
            f"| {inert(state.message or '')} |"
        )
        with get_client(sync_client=True) as prefect:
            prefect.update_artifact(self._id, ArtifactUpdate(data=self._markdown(records)))

    def _markdown(self, records: list[StageRecord]) -> str:
        latest = {record.stage: record for record in records if record.status == "completed"}
        return "\n".join(
            [
                f"Run `{self._run.run_id}`, its files: {files_link(self._run, self._settings)}",
                "",
                "| stage | state | attempt | s | $ | |",
                "|---|---|---|---|---|---|",
                *(self._rows.get(name, f"| {name} | | | | | |") for name in STAGES),
                self._total(records),
                "",
                *self._report(latest.get("evaluate")),
                *(
                    f"- {inert(name.replace('_', ' '))}: {inert(value)}"
                    for record in latest.values()
                    for name, value in record.resources.items()
                    if value.startswith("arn:")
                ),
            ]
        )

    def _total(self, records: list[StageRecord]) -> str:
        """What all attempts have bought, beside the budget."""
        cost = sum((record.cost for record in records), NO_COST)
        tokens = f"{cost.calls:,} calls, {cost.input_tokens + cost.output_tokens:,} tokens"
        budget = f"of a budget of ${self._settings.budget.usd_per_run:g}"
        simulated = " sim." if cost.simulated else ""
        return f"| all attempts | | | | {cost.usd:.4f}{simulated} | {budget}; {tokens} |"

    def _report(self, evaluated: StageRecord | None) -> list[str]:
        if evaluated is None or "page" not in evaluated.files:
            return []
        uri = self._run.storage.uri(evaluated.files["page"].key)
        return [f"- report: artifact `evaluation-report`; as a page `{uri}`"]


def files_link(run: Run, settings: Settings) -> str:
    """The run's folder, as a link into the console where the bucket is one of AWS."""
    uri = f"`{run.storage.uri(run.prefix)}`"
    if settings.aws.endpoint_url:
        return uri
    query = urlencode({"region": settings.aws.region, "prefix": run.prefix})
    return f"[{uri}](https://s3.console.aws.amazon.com/s3/buckets/{run.storage.bucket}?{query})"
