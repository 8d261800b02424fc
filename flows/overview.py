"""The pipeline's own artifact: what became of every stage, on one page."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State

from data_contracts.runs import STAGES
from tasks.base import logger
from tasks.reporting.text import inert
from tasks.runs import Run


class Overview:
    """A table of the stages that is written again after each of them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rows: dict[str, str] = {}

    def add(self, stage: str, state: State[Any]) -> None:
        """Enter a stage's end, in the log and in the table."""
        logger().info("%s: %s: %s", stage, state.name, state.message)
        record = next((r for r in reversed(self._run.records()) if r.stage == stage), None)
        seconds = f"{record.seconds:.1f}" if record else ""
        cost = f"{record.cost.usd:.4f}{' sim.' if record.cost.simulated else ''}" if record else ""
        self._rows[stage] = (
            f"| {stage} | {state.name} | {record.attempt if record else ''} | {seconds} | {cost} "
            f"| {inert(state.message or '')} |"
        )
        lines = [
            f"Run `{self._run.run_id}`, its files: `{self._run.storage.uri(self._run.prefix)}`",
            "",
            "| stage | state | attempt | s | $ | |",
            "|---|---|---|---|---|---|",
            *(self._rows.get(name, f"| {name} | | | | | |") for name in STAGES),
        ]
        create_markdown_artifact(
            key="pipeline", markdown="\n".join(lines), description="The stages of the run"
        )
