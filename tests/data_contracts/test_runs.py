"""Runs: ids, stage records, and the manifest derived from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_contracts.runs import STAGES, Cost, Stage, StageRecord, check_run_id, derive_manifest
from reelroute.errors import ContractError

STARTED = datetime(2026, 1, 5, 9, tzinfo=UTC)


def record(stage: Stage, attempt: int = 1, status: str = "completed", **fields: Any) -> StageRecord:
    values = {
        "run_id": "run-1",
        "stage": stage,
        "attempt": attempt,
        "status": status,
        "inputs": {},
        "started_at": STARTED,
        "ended_at": STARTED + timedelta(seconds=90),
        "version": "0.1.0",
    }
    return StageRecord.model_validate(values | fields)


@pytest.mark.parametrize("run_id", ["a", "7", "run-1", "a--b", "a" * 40, "2026-w01"])
def test_short_lower_case_ids_with_inner_dashes_are_run_ids(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        "-",
        "-a",
        "a-",
        "a" * 41,
        "Run-1",
        "run_1",
        "run 1",
        "run-1\n",
        "rün",
        "١",
        ".",
        "..",
        "../other",
        "a/b",
        "a\\b",
        "a%2fb",
        "a\x00",
    ],
)
def test_anything_else_is_refused_with_the_id_and_the_next_step(run_id: str) -> None:
    with pytest.raises(ContractError) as error:
        check_run_id(run_id)
    assert repr(run_id) in str(error.value)
    assert "reelroute runs list" in str(error.value)


@given(st.text())
def test_an_accepted_run_id_is_one_safe_part_of_a_path(run_id: str) -> None:
    try:
        check_run_id(run_id)
    except ContractError:
        return
    assert set(run_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 1 <= len(run_id) <= 40


attempts = st.lists(
    st.tuples(st.sampled_from(STAGES), st.integers(1, 5), st.sampled_from(["completed", "failed"])),
    unique_by=lambda attempt: attempt[:2],
)


@given(attempts, st.randoms(use_true_random=False))
def test_the_manifest_is_the_same_for_records_in_any_order(attempts: Any, random: Any) -> None:
    records = [record(*attempt) for attempt in attempts]
    shuffled = random.sample(records, len(records))
    assert derive_manifest("run-1", None, shuffled) == derive_manifest("run-1", None, records)


@given(attempts)
def test_the_latest_attempt_at_a_stage_counts_and_all_are_counted(attempts: Any) -> None:
    manifest = derive_manifest("run-1", None, [record(*attempt) for attempt in attempts])
    for stage in STAGES:
        mine = {attempt: status for name, attempt, status in attempts if name == stage}
        assert manifest.attempts.get(stage, 0) == len(mine)
        if mine:
            assert manifest.stages[stage].attempt == max(mine)
            assert manifest.stages[stage].status == mine[max(mine)]
        else:
            assert stage not in manifest.stages


def test_a_run_with_every_stage_completed_is_completed() -> None:
    records = [record(stage) for stage in STAGES]
    assert derive_manifest("run-1", None, records).status == "completed"
    assert derive_manifest("run-1", None, records[:-1]).status == "unfinished"
    assert derive_manifest("run-1", None, []).status == "unfinished"


def test_a_failure_counts_until_a_later_attempt_succeeds() -> None:
    records = [record("label", 1, "failed")]
    assert derive_manifest("run-1", None, records).status == "failed"
    records.append(record("label", 2))
    assert derive_manifest("run-1", None, records).status == "unfinished"


def test_a_run_costs_what_its_latest_attempts_bought() -> None:
    bought = Cost(calls=2, input_tokens=10, output_tokens=5, usd=0.5)
    simulated = Cost(calls=1, usd=0.25, simulated=True)
    manifest = derive_manifest(
        "run-1",
        None,
        [record("label", 1, cost=simulated), record("label", 2, cost=bought), record("distill")],
    )
    assert manifest.cost == bought
    assert bought + simulated == Cost(
        calls=3, input_tokens=10, output_tokens=5, usd=0.75, simulated=True
    )


def test_a_manifest_lists_its_stages_in_the_order_in_which_they_run() -> None:
    records = [record(stage) for stage in reversed(STAGES)]
    assert tuple(derive_manifest("run-1", None, records).stages) == STAGES


def test_a_record_survives_its_file_and_knows_its_duration() -> None:
    kept = record("upload", 3, "failed", error="no bucket", metrics={"rows": 3})
    assert StageRecord.model_validate_json(kept.model_dump_json()) == kept
    assert kept.seconds == 90


@pytest.mark.parametrize(
    "fields", [{"attempt": 0}, {"stage": "train"}, {"status": "running"}, {"note": "x"}]
)
def test_a_record_outside_the_contract_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        record(**({"stage": "label"} | fields))
