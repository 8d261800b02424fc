"""The label stage: queries and their weights from the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from configs.settings import Settings
from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.batch import weigh_in_batches
from tasks.label import (
    Teacher,
    WrittenQuery,
    choose_examples,
    compact_store,
    is_from_production,
    read_own_queries,
    read_production_queries,
    store_labels,
    store_prompts,
    weigh_all,
    write_queries,
)
from tasks.runs import Run
from tasks.spool import Spool


def _plan_or_own_queries(settings: Settings, run: Run) -> dict[str, str]:
    own_queries = run.own_queries()
    plan = {"plan": settings.plan_hash()}
    if own_queries:
        own = {"own queries": own_queries.sha256}
        return {**plan, **own} if is_from_production(own_queries) else own
    return plan


@stage_flow(
    "label",
    settings=("label", "models.teacher", "distill.training_data", "distill.labelled_examples"),
    prompts=("router", "write_queries", "repair"),
    more_inputs=_plan_or_own_queries,
)
def label(stage: StageContext) -> StageResult:
    """Ask the teacher for queries by the plan, or take the user's own, and weigh each of them.

    Queries that were sampled from production join those of the plan. Where the distillation job
    labels, only a few are weighed here.
    """
    teacher = Teacher(stage)
    own_queries = stage.run.own_queries()
    if own_queries is None:
        found = write_queries(stage, teacher)
    elif is_from_production(own_queries):
        found = read_production_queries(stage, own_queries, write_queries(stage, teacher))
    else:
        found = read_own_queries(stage, own_queries)

    prompts_only = stage.settings.distill.training_data == "prompts"
    examples: Sequence[WrittenQuery] | Spool[WrittenQuery] = found.accepted
    prompts: list[WrittenQuery] = []
    if prompts_only:
        examples, prompts = choose_examples(
            list(found.accepted), stage.settings.distill.labelled_examples
        )
    if stage.settings.label.batch_from is not None:
        weigh_in_batches(stage, teacher, [query.text for query in examples])
    labelled = weigh_all(stage, teacher, examples)
    files = store_labels(stage, found, labelled)
    if prompts_only:
        files["prompts"] = store_prompts(stage, prompts)
    compact_store(teacher)
    counts = {
        "asked": found.asked,
        "accepted": len(labelled.accepted) + len(prompts),
        "duplicates": len(found.duplicates),
        "quarantined": len(found.quarantined) + len(labelled.quarantined),
        "from_store": labelled.from_store,
        "from_batches": labelled.from_batches,
    }
    summary = (
        "{asked} queries asked = {accepted} accepted + {duplicates} duplicates + "
        "{quarantined} quarantined; {from_store} answers from the label store"
    )
    if labelled.from_batches:
        summary += ", {from_batches} from batch inference"
    if prompts:
        summary += f"; {len(prompts)} left to the distillation job's teacher"
    return StageResult(
        summary=summary.format(**counts),
        files=files,
        metrics={**counts, "prompts": len(prompts)},
        cost=teacher.bought(),
    )
