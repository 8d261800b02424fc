"""Automations: what Prefect does by itself when a run fails, takes long, dies, or queries drift."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from configs.settings import Settings
from data_contracts.events import DRIFT_DETECTED, GATE_REFUSED, environment_resource
from deployments.names import automation_name, webhook_name

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

#: The names of the states in which flow runs of ReelRoute end.
ENDS: Final = ("Completed", "Skipped", "Failed", "Crashed", "TimedOut", "Cancelled", "Refused")
ENDED_EVENTS: Final = {f"prefect.flow-run.{name}" for name in ENDS}
BROKEN_EVENTS: Final = {f"prefect.flow-run.{name}" for name in ("Failed", "Crashed", "TimedOut")}
HEARTBEAT: Final = "prefect.flow-run.heartbeat"

#: Untrusted text is made JSON by the template's own filter.
_FLOW_RUN_TEXT: Final = (
    '{{ {"text": "ReelRoute, %s: " ~ flow_run.name ~ " %s: "'
    ' ~ (flow_run.state.message ~ " " if flow_run.state.message else "")'
    " ~ (flow_run | ui_url)} | tojson }}"
)
_EVENT_TEXT: Final = '{{ {"text": "ReelRoute, %s: " ~ event.payload["message"]} | tojson }}'


def automations(
    settings: Settings, deployments: Mapping[str, UUID], webhook: UUID | None
) -> list[AutomationCore]:
    """All automations of an environment.

    Args:
        deployments: flow name to the id of its deployment.
        webhook: the block of the webhook that is told; None leaves out what would only tell.
    """
    environment, notify = settings.environment, settings.notify
    mine = {"prefect.resource.id": [f"prefect.deployment.{id_}" for id_ in deployments.values()]}
    # Stages below a pipeline have no deployment, but its tags.
    tagged = [{"prefect.resource.id": f"prefect.tag.{tag}"} for tag in ("reelroute", environment)]
    flow_runs = {"prefect.resource.id": "prefect.flow-run.*"}
    each_flow_run = {"prefect.resource.id"}
    about = {"prefect.resource.id": environment_resource(environment)["prefect.resource.id"]}

    def named(
        what: str, description: str, trigger: EventTrigger, action: ActionTypes
    ) -> AutomationCore:
        return AutomationCore(
            name=automation_name(environment, what),
            description=description,
            tags=["reelroute", environment],
            trigger=trigger,
            actions=[action],
        )

    found = [
        named(
            "dead run",
            "A flow run whose process gives no sign of life any more is marked Crashed, so that "
            "Retry is offered.",
            EventTrigger(
                after={HEARTBEAT},
                expect={HEARTBEAT, *ENDED_EVENTS},
                match=flow_runs,
                match_related=tagged,
                for_each=each_flow_run,
                posture=Posture.Proactive,
                within=timedelta(seconds=notify.silent_seconds),
            ),
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no sign of life for {notify.silent_seconds:.0f} s: the process is "
                "gone. Retry goes on where the run stopped, as does `reelroute run --run ID` "
                "with the run id of the pipeline's name",
            ),
        ),
        named(
            "drift",
            "A pipeline run is started when production queries have moved away from the "
            "training set; it labels the queries that the monitor has sampled.",
            EventTrigger(expect={DRIFT_DETECTED}, match=about),
            RunDeployment(
                deployment_id=deployments["pipeline"],
                parameters={
                    "queries_file": {
                        "__prefect_kind": "jinja",
                        "template": '{{ event.payload["queries"] }}',
                    }
                },
            ),
        ),
    ]
    if webhook is None:
        return found

    def tells(text: str, *words: str) -> CallWebhook:
        return CallWebhook(block_document_id=webhook, payload=text % (environment, *words))

    return [
        *found,
        named(
            "failure",
            "The webhook is told of a run that failed or crashed.",
            EventTrigger(
                expect=BROKEN_EVENTS,
                match=flow_runs,
                match_related=mine,
                for_each=each_flow_run,
            ),
            tells(_FLOW_RUN_TEXT, "has failed"),
        ),
        named(
            "long run",
            "The webhook is told of a run that works for longer than expected.",
            EventTrigger(
                after={"prefect.flow-run.Running"},
                expect=ENDED_EVENTS,
                match=flow_runs,
                match_related=mine,
                for_each=each_flow_run,
                posture=Posture.Proactive,
                within=timedelta(minutes=notify.long_run_minutes),
            ),
            tells(_FLOW_RUN_TEXT, f"has been at work for {notify.long_run_minutes:.0f} minutes"),
        ),
        named(
            "gate refused",
            "The webhook is told of a model that the gate kept from becoming the release.",
            EventTrigger(expect={GATE_REFUSED}, match=about),
            tells(_EVENT_TEXT),
        ),
    ]


def save_webhook(settings: Settings) -> UUID | None:
    """The webhook's block in Prefect, its URL kept there as a secret; None without a URL."""
    url = os.environ.get(settings.notify.url_variable)
    if not url:
        return None
    saved: Any = Webhook(url=url).save(webhook_name(settings.environment), overwrite=True)
    return UUID(str(saved))


def save_automations(prefect: SyncPrefectClient, wanted: Iterable[AutomationCore]) -> None:
    """Create the automations, or bring those of the same name to what is wanted."""
    for automation in wanted:
        # What was left at its default must be sent, too; the owner is refused in an update.
        values = automation.model_dump(mode="json", exclude={"owner_resource"})
        whole = AutomationCore.model_validate(values)
        there = prefect.read_automations_by_name(automation.name)
        if there:
            prefect.update_automation(there[0].id, whole)
        else:
            prefect.create_automation(whole)
