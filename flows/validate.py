"""The validate stage: contracts for every record and for the set, and the split."""

from __future__ import annotations

from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.validate import (
    channel_counts,
    check_records,
    check_set,
    read_prompts,
    split_rows,
    store_dataset,
)


@stage_flow(
    "validate",
    reads=("label",),
    settings=("validate",),
    files=("data_contracts/heldout_benchmark.jsonl", "data_contracts/suite.py"),
)
def validate(stage: StageContext) -> StageResult:
    """Check the labelled set against its contracts and split it without leaks."""
    rows = check_records(stage)
    report = check_set(stage, rows)
    prompts = read_prompts(stage)
    split = split_rows(rows, prompts)
    dataset = store_dataset(stage, split)
    counts = {
        "rows": len(rows),
        "train": len(split.train),
        "fresh": len(split.fresh),
        "withheld": len(split.withheld),
    }
    left = f"; {len(split.prompts)} more for the distillation job to label" if prompts else ""
    return StageResult(
        summary="{rows} rows fulfil the contracts: {train} to train on, {fresh} freshly held out, "
        "{withheld} withheld as equal or near to held-out queries".format(**counts)
        + left,
        files={**report, **dataset},
        metrics={**counts, "prompts": len(split.prompts), "channels": channel_counts(split.train)},
    )
