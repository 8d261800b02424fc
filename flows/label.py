"""The label stage: queries and their weights from the teacher."""

from __future__ import annotations

from configs.settings import Settings
from flows.stage import stage_flow
from tasks.base import Progress, StageContext, StageResult
from tasks.label import (
    Labelled,
    Teacher,
    compact_store,
    read_own_queries,
    shards,
    store_labels,
    weigh_queries,
    write_queries,
)
from tasks.runs import Run


def _plan_or_own_queries(settings: Settings, run: Run) -> dict[str, str]:
    own_queries = run.own_queries()
    if own_queries:
        return {"own queries": own_queries.sha256}
    return {"plan": settings.plan_hash()}


@stage_flow(
    "label",
    settings=("label", "models.teacher"),
    prompts=("router", "write_queries", "repair"),
    more_inputs=_plan_or_own_queries,
)
def label(stage: StageContext) -> StageResult:
    """Ask the teacher for queries by the plan, or take the user's own, and weigh each of them."""
    teacher = Teacher(stage)
    own_queries = stage.run.own_queries()
    found = read_own_queries(stage, own_queries) if own_queries else write_queries(stage, teacher)

    labelled = Labelled()
    progress = Progress(
        "label-weights",
        f"the teacher weighs {len(found.accepted)} queries",
        len(found.accepted),
    )
    for shard in shards(found.accepted, stage.settings.label.shard_size):
        labelled += weigh_queries(stage, teacher, shard, progress)

    files = store_labels(stage, found, labelled)
    compact_store(teacher)
    counts = {
        "asked": found.asked,
        "accepted": len(labelled.accepted),
        "duplicates": len(found.duplicates),
        "quarantined": len(found.quarantined) + len(labelled.quarantined),
        "from_store": labelled.from_store,
    }
    return StageResult(
        summary="{asked} queries asked = {accepted} accepted + {duplicates} duplicates + "
        "{quarantined} quarantined; {from_store} answers from the label store".format(**counts),
        files=files,
        metrics=counts,
        cost=teacher.bought(),
    )
