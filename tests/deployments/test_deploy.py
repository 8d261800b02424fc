"""`make deploy`: what Prefect holds after it, and that doing it twice changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from configs.settings import Settings, load_settings
from data_contracts.runs import STAGES
from deployments.automations import ENDED_EVENTS, automations, save_webhook
from deployments.deploy import declared_flows, deploy, deploy_variables, deployment_ids
from deployments.work_pools import WorkPool, read_work_pool, with_defaults
from deployments.worker import worker_command
from reelroute.errors import ConfigError
from tests.conftest import new_place

ENVIRONMENT = "deployed"


@dataclass
class Deployed:
    settings: Settings
    config: str
    first: list[str]
    second: list[str]
    ids: list[dict[str, Any]]


@pytest.fixture(scope="module")
def prefect(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def deployed(
    prefect: SyncPrefectClient, session_aws: Any, tmp_path_factory: pytest.TempPathFactory
) -> Deployed:
    """An environment that was deployed twice."""
    place = new_place(session_aws, tmp_path_factory.mktemp("deployed"))
    config = place.profile(environment=ENVIRONMENT, schedule__collision="refuse")
    said: list[list[str]] = [[], []]
    ids = []
    for lines in said:
        deploy(config, lines.append)
        ids.append(
            {
                **deployment_ids(prefect, ENVIRONMENT),
                **{a.name: a.id for a in prefect.read_automations()},
            }
        )
    return Deployed(load_settings(config), config, said[0], said[1], ids)


def test_deploying_twice_says_and_leaves_the_same(deployed: Deployed) -> None:
    assert deployed.first == deployed.second
    assert deployed.ids[0] == deployed.ids[1]


def test_pipeline_and_every_stage_are_deployed_by_their_names(deployed: Deployed) -> None:
    assert {"pipeline", *STAGES} <= set(declared_flows())
    said = [line.split()[1].rstrip(":") for line in deployed.first if line.startswith("deploy")]
    assert said == [f"{name}/{ENVIRONMENT}" for name in declared_flows()]


def test_the_pipeline_runs_weekly_and_one_at_a_time(
    deployed: Deployed, prefect: SyncPrefectClient
) -> None:
    found = prefect.read_deployment_by_name(f"pipeline/{ENVIRONMENT}")
    (schedule,) = found.schedules
    assert schedule.active
    assert schedule.schedule.model_dump()["cron"] == "0 3 * * 1"
    assert found.global_concurrency_limit is not None
    assert found.global_concurrency_limit.limit == 1
    assert found.concurrency_options is not None
    assert found.concurrency_options.collision_strategy.value == "CANCEL_NEW"


def test_each_deployment_has_a_form_with_help_for_every_field(
    deployed: Deployed, prefect: SyncPrefectClient
) -> None:
    for name in declared_flows():
        found = prefect.read_deployment_by_name(f"{name}/{ENVIRONMENT}")
        assert found.description
        assert {"reelroute", ENVIRONMENT} <= set(found.tags)
        assert found.version
        assert found.parameters["config"] == deployed.config
        fields = (found.parameter_openapi_schema or {})["properties"]
        assert [key for key, field in fields.items() if not field.get("description")] == []
        if name in STAGES:
            assert {"run_id", "force"} <= set(fields)


def test_the_work_pool_is_the_one_that_the_worker_takes_from(
    deployed: Deployed, prefect: SyncPrefectClient
) -> None:
    command = worker_command(deployed.settings)
    name = command[command.index("--pool") + 1]
    pool = prefect.read_work_pool(name)
    assert (pool.type, pool.concurrency_limit) == ("process", 3)
    # A limit of the worker's own ends it when a run is retried before its process is gone.
    assert "--limit" not in command
    for flow_name in declared_flows():
        found = prefect.read_deployment_by_name(f"{flow_name}/{ENVIRONMENT}")
        assert found.work_pool_name == name


def test_without_a_webhook_nothing_only_tells_and_deploy_says_so(deployed: Deployed) -> None:
    assert [line for line in deployed.first if line.startswith("automation")] == [
        f"automation  reelroute {ENVIRONMENT}: dead run",
        f"automation  reelroute {ENVIRONMENT}: drift",
        "automation  no notifications: REELROUTE_NOTIFY_URL holds no webhook's URL",
    ]


def test_the_webhooks_url_is_kept_as_a_secret(
    deployed: Deployed, prefect: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert save_webhook(deployed.settings) is None
    monkeypatch.setenv("REELROUTE_NOTIFY_URL", "https://hooks.example.com/marked-secret")
    block = save_webhook(deployed.settings)
    assert block is not None
    assert block == save_webhook(deployed.settings)
    document = prefect.read_block_document(block, include_secrets=False)
    assert "marked-secret" not in document.model_dump_json()
    ids = {name: uuid4() for name in declared_flows()}
    found = automations(deployed.settings, ids, block)
    assert len(found) == 5
    assert "marked-secret" not in "".join(a.model_dump_json() for a in found)


def test_every_end_of_a_flow_run_ends_the_watch_for_signs_of_life(deployed: Deployed) -> None:
    ids = {name: uuid4() for name in declared_flows()}
    dead, drift = automations(deployed.settings, ids, None)
    trigger: Any = dead.trigger
    assert trigger.expect == {"prefect.flow-run.heartbeat", *ENDED_EVENTS}
    # A sign of life is given every 30 s: two may be lost.
    assert trigger.within.total_seconds() > 65
    action: Any = drift.actions[0]
    assert action.deployment_id == ids["pipeline"]


def test_what_prefect_yaml_takes_from_the_environment_is_given() -> None:
    from deployments.deploy import PREFECT_FILE

    given = deploy_variables(load_settings(), "configs/local.yaml").keys() | {"REELROUTE_HOME"}
    text = PREFECT_FILE.read_text(encoding="utf-8")
    named = {part.partition(" ")[0] for part in text.split("{{ $")[1:]}
    assert named == given


# --- work pools --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["process", "docker", "ecs"])
def test_each_kind_of_work_pool_fits_the_template_of_its_worker(kind: str) -> None:
    import json
    from pathlib import Path

    import prefect as package

    # What the server hands out without a network.
    views = Path(package.__file__).parent / "server/api/collections_data/views"
    collections = json.loads((views / "aggregate-worker-metadata.json").read_text())
    templates = {
        worker["type"]: worker["default_base_job_configuration"]
        for collection in collections.values()
        for worker in collection.values()
    }
    pool = read_work_pool(kind)
    merged = with_defaults(templates[pool.type], pool)
    properties = merged["variables"]["properties"]
    assert {name: properties[name]["default"] for name in pool.variables} == pool.variables
    assert merged["job_configuration"] == templates[pool.type]["job_configuration"]


def test_a_variable_that_a_worker_does_not_know_is_named() -> None:
    pool = WorkPool(type="ecs", description="", concurrency_limit=1, variables={"cpus": 1})
    template = {"variables": {"properties": {"cpu": {}}}}
    with pytest.raises(ConfigError, match=r"ecs\.yaml: a ecs worker has no variable 'cpus'"):
        with_defaults(template, pool)
