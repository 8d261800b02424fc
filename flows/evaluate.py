"""The evaluate stage: every candidate on the same held-out queries."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from data_contracts.evaluation import Prediction
from flows.stage import stage_flow
from tasks.base import Progress, StageContext, StageResult
from tasks.evaluate import (
    ask_candidate,
    gather_candidates,
    held_out_queries,
    join_demo,
    make_cascade,
    summarise,
    write_report,
)
from tasks.judge import failures, judge
from tasks.releases import release_to_replace


@stage_flow(
    "evaluate",
    reads=("validate", "distill", "deploy"),
    settings=("evaluate", "models"),
    prompts=("router", "judge"),
    files=("data_contracts/heldout_benchmark.jsonl", "configs/judge.yaml"),
    more_inputs=release_to_replace,
)
def evaluate(stage: StageContext) -> StageResult:
    """Ask every candidate the held-out queries, score the answers, and have them judged."""
    held_out = held_out_queries(stage)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        candidates = gather_candidates(stage, folder)
        total = len(candidates) * len(held_out)
        progress = Progress("evaluate", f"{len(candidates)} candidates answer {total} times", total)
        answered = {c.name: ask_candidate(stage, c, held_out, progress) for c in candidates}
        predictions: dict[str, Sequence[Prediction]] = {
            name: answers for name, (answers, _) in answered.items()
        }
        cascade = make_cascade(stage, folder, candidates, predictions)
        if cascade:
            candidates.append(cascade)
            answered[cascade.name] = ask_candidate(stage, cascade, held_out, progress)
            predictions[cascade.name] = answered[cascade.name][0]

    predictions, jobs = judge(stage, predictions)

    summary = summarise(stage, candidates, predictions)
    demo = join_demo([answers for _, answers in answered.values()])
    files = write_report(stage, summary, predictions, demo)
    failed = failures(predictions)
    return StageResult(
        summary=", ".join(f"{scores.name} {scores.rubric:.2f}" for scores in summary.benchmark)
        + f" on the rubric, {len(held_out)} queries"
        + (f"; the judge has no score for {sum(failed.values())} answers" if failed else ""),
        files=files,
        resources=jobs,
        metrics={
            "queries": len(held_out),
            "rubric": {scores.name: scores.rubric for scores in summary.benchmark},
            "judge_failures": failed,
            "rubric_fresh": {scores.name: scores.rubric for scores in summary.fresh},
        },
        cost=stage.meter.cost,
    )
