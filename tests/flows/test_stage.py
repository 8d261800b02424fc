"""A stage as a flow: skipped where nothing has changed, recorded once, its errors sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.schemas.objects import State

import tasks.label  # noqa: F401  (the hash of its source is an input of the stage)
from configs.settings import Settings
from data_contracts.runs import Cost, StageRecord
from flows.stage import code_version, open_run, run_stage, stage_flow
from reelroute.errors import AwsError, ReelRouteError, StageError
from tasks.base import StageContext, StageResult
from tasks.runs import Run
from tests.support import Place, record

pytestmark = pytest.mark.usefixtures("prefect_server")

Body = Callable[[StageContext], StageResult]


class Lab:
    """A stage with a body of the test's own; counts how often the body runs."""

    def __init__(self, place: Place, body: Body | None = None, **how: Any) -> None:
        self.place = place
        self.ran = 0
        self.config = place.profile()
        self.body = body or self.write
        place.run()

        def counted(stage: StageContext) -> StageResult:
            """A stage of the tests."""
            self.ran += 1
            return self.body(stage)

        self.flow = stage_flow("label", **{"settings": ("label",), **how})(counted)

    @staticmethod
    def write(stage: StageContext) -> StageResult:
        file = stage.run.put_text("labelled/labelled.jsonl", "one\n")
        return StageResult("one line", {"labelled": file}, {"arn": "a"}, {"lines": 1}, Cost(usd=1))

    @property
    def run(self) -> Run:
        return Run(self.place.storage(), "run-1")

    @property
    def records(self) -> list[StageRecord]:
        return self.run.records("label")

    def __call__(
        self,
        run_id: str = "run-1",
        config: str | None = None,
        overrides: dict[str, Any] | None = None,
        force: bool = False,
    ) -> State[Any]:
        return run_stage(self.flow, run_id, config or self.config, overrides, force)


def test_a_stage_leaves_one_record_of_what_it_did(place: Place) -> None:
    lab = Lab(place)
    state = lab()
    assert (state.name, state.message) == ("Completed", "one line")
    (found,) = lab.records
    assert (found.stage, found.attempt, found.status) == ("label", 1, "completed")
    assert found.metrics == {"lines": 1, "summary": "one line"}
    assert (found.resources, found.cost.usd, found.error) == ({"arn": "a"}, 1, None)
    assert set(found.inputs) == {"settings", "code"}
    assert found.version == code_version()
    assert found.ended_at >= found.started_at


def test_a_stage_whose_inputs_have_not_changed_is_skipped(place: Place) -> None:
    lab = Lab(place)
    lab()
    state = lab()
    assert state.is_completed()
    assert state.name == "Skipped"
    assert state.message == "nothing has changed since attempt 1: one line"
    assert (lab.ran, len(lab.records)) == (1, 1)


def test_force_makes_another_attempt_and_leaves_the_first_as_it_was(place: Place) -> None:
    lab = Lab(place)
    lab()
    first = lab.records[0]
    assert lab(force=True).name == "Completed"
    assert [r.attempt for r in lab.records] == [1, 2]
    assert lab.records[0] == first


def test_only_a_change_of_the_stages_own_settings_runs_it_again(place: Place) -> None:
    lab = Lab(place)
    lab()
    assert lab(overrides={"promote.valid_rate_min": 0.5}).name == "Skipped"
    assert lab(overrides={"label.round": "2"}).name == "Completed"
    assert lab.ran == 2
    assert [r.attempt for r in lab.records] == [1, 2]


def test_a_changed_prompt_runs_it_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(place, prompts=("router",))
    lab()
    assert lab().name == "Skipped"
    settings = type(place.settings())
    prompt = settings.prompt

    def changed(self: Any, name: Any) -> Any:
        found = prompt(self, name)
        return type(found).of(found.text + " Be brief.")

    monkeypatch.setattr(settings, "prompt", changed)
    assert lab().name == "Completed"
    assert lab.ran == 2


def test_other_inputs_are_compared_too(place: Place) -> None:
    release = {"current release": "none"}
    lab = Lab(place, more_inputs=lambda settings, run: dict(release))
    lab()
    assert lab().name == "Skipped"
    release["current release"] = "a-1"
    assert lab().name == "Completed"


@pytest.mark.parametrize("data", [b"two\n", None], ids=["changed", "gone"])
def test_an_output_that_no_longer_verifies_is_made_again(data: bytes | None, place: Place) -> None:
    lab = Lab(place)
    lab()
    key = lab.run.key("labelled/labelled.jsonl")
    if data is None:
        lab.run.storage.delete([key])
    else:
        lab.run.storage.put(key, data)
    assert lab().name == "Completed"
    assert (lab.ran, [r.attempt for r in lab.records]) == (2, [1, 2])
    assert lab().name == "Skipped"


def test_what_was_made_in_aws_must_still_be_there(place: Place) -> None:
    there = [True]
    lab = Lab(place, still_there=lambda settings, found: there[0] and found.resources["arn"] == "a")
    lab()
    assert lab().name == "Skipped"
    there[0] = False
    assert lab().name == "Completed"


def test_a_failed_stage_leaves_a_record_a_sentence_and_no_stack_trace(
    place: Place, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(stage: StageContext) -> StageResult:
        raise StageError("the teacher is ill; ask it tomorrow")

    lab = Lab(place, fail)
    state = lab()
    assert (state.name, state.message) == ("Failed", "the teacher is ill; ask it tomorrow")
    (found,) = lab.records
    assert (found.status, found.error) == ("failed", "the teacher is ill; ask it tomorrow")
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_after_a_failure_the_next_attempt_has_the_next_number(place: Place) -> None:
    lab = Lab(place, lambda stage: Lab.write(stage))
    attempts: list[int] = []

    def fail_first(stage: StageContext) -> StageResult:
        attempts.append(stage.attempt)
        if stage.attempt == 1:
            raise StageError("not yet")
        return Lab.write(stage)

    lab.body = fail_first
    assert lab().name == "Failed"
    assert lab().name == "Completed"
    assert lab().name == "Skipped"
    assert attempts == [1, 2]
    assert [(r.attempt, r.status) for r in lab.records] == [(1, "failed"), (2, "completed")]


class Killed(BaseException):
    """The process ends here."""


def test_a_kill_leaves_no_record_so_that_the_same_attempt_goes_on(place: Place) -> None:
    attempts: list[int] = []

    def die_once(stage: StageContext) -> StageResult:
        attempts.append(stage.attempt)
        if len(attempts) == 1:
            raise Killed
        return Lab.write(stage)

    lab = Lab(place, die_once)
    with pytest.raises(Killed):
        lab()
    assert lab.records == []
    assert lab().name == "Completed"
    assert attempts == [1, 1]
    (found,) = lab.records
    in_flight = place.settings().label.at_work
    assert (found.metrics["starts"], found.metrics["calls_repeated_at_most"]) == (2, in_flight)


def test_an_error_while_it_is_looked_whether_the_outputs_are_there_is_a_sentence(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    def unreachable(settings: Settings, record: StageRecord) -> bool:
        raise AwsError("AWS can't be reached; run again")

    lab = Lab(place, still_there=unreachable)
    assert lab().name == "Completed"
    state = lab()
    assert (state.name, state.message) == ("Failed", "AWS can't be reached; run again")
    assert "Traceback" not in "".join(capfd.readouterr())
    assert lab.ran == 1


def test_what_failed_attempts_cost_counts_against_the_runs_budget(place: Place) -> None:
    spent: list[float] = []

    def body(stage: StageContext) -> StageResult:
        try:
            stage.meter.check(1e9, "everything")
        except StageError as error:
            spent.append(float(str(error).partition(": $")[2].partition(" ")[0]))
        stage.meter.add(Cost(usd=2.5))
        raise StageError("again")

    lab = Lab(place, body)
    for _ in range(3):
        lab()
    assert spent == [0, 2.5, 5]


def test_a_bug_is_recorded_and_raised_as_what_it_is(place: Place) -> None:
    def wrong(stage: StageContext) -> StageResult:
        raise KeyError("a bug")

    lab = Lab(place, wrong)
    state = lab()
    assert state.is_failed()
    assert lab.records[0].error == "KeyError: 'a bug'"


def test_a_record_that_somebody_else_wrote_meanwhile_is_never_overwritten(place: Place) -> None:
    def overtaken(stage: StageContext) -> StageResult:
        stage.run.write_record(record(stage.run, "label", resources={"by": "another process"}))
        return StageResult("mine")

    lab = Lab(place, overtaken)
    state = lab()
    assert state.name == "Failed"
    assert "was recorded by another process meanwhile" in (state.message or "")
    assert [r.resources for r in lab.records] == [{"by": "another process"}]


def test_a_stage_that_needs_another_says_which_and_leaves_no_record(place: Place) -> None:
    lab = Lab(place, reads=("validate",))
    state = lab()
    assert state.name == "Failed"
    assert "needs stage validate first (it has not run)" in (state.message or "")
    assert (lab.ran, lab.records) == (0, [])


def test_what_an_earlier_stage_made_is_an_input(place: Place) -> None:
    lab = Lab(place, reads=("validate",))
    lab.run.write_record(record(lab.run, "validate", resources={"a": "1"}))
    assert lab().name == "Completed"
    assert "stage validate" in lab.records[0].inputs
    assert lab().name == "Skipped"
    lab.run.write_record(record(lab.run, "validate", attempt=2, resources={"a": "1"}))
    assert lab().name == "Skipped"
    lab.run.write_record(record(lab.run, "validate", attempt=3, resources={"a": "2"}))
    assert lab().name == "Completed"


def test_the_overrides_that_a_run_was_started_with_hold_on(place: Place) -> None:
    rounds: list[str] = []

    def body(stage: StageContext) -> StageResult:
        rounds.append(stage.settings.label.round)
        return Lab.write(stage)

    lab = Lab(place, body)
    run = Run(place.storage(), "run-2")
    run.start(place.settings(), {"label.round": "started with"}, None, None)
    lab("run-2")
    lab("run-2", overrides={"label.round": "given now"})
    assert rounds == ["started with", "given now"]


@pytest.mark.parametrize(
    ("run_id", "overrides", "said"),
    [
        ("run-9", {}, "there is no run 'run-9' in s3://"),
        ("../../etc", {}, "run id '../../etc' is not allowed"),
        ("run-1", {"environment": "production"}, "belongs to environment 'local'"),
        ("run-1", {"label.sise": 1}, "unknown key `label.sise`"),
        ("run-1", {"storage.bucket": "not-there"}, "the bucket doesn't exist"),
        ("run-1", {"aws.endpoint_url": "http://127.0.0.1:9"}, "aws.endpoint_url"),
    ],
)
def test_what_is_wrong_before_the_stage_starts_is_one_sentence(
    run_id: str, overrides: dict[str, Any], said: str, place: Place
) -> None:
    lab = Lab(place)
    state = lab(run_id, overrides=overrides)
    assert state.name == "Failed"
    assert said in (state.message or "")
    assert (lab.ran, lab.records) == (0, [])


def test_a_run_is_opened_with_the_profile_as_it_is_now(place: Place) -> None:
    Run(place.storage(), "run-1").start(place.settings(), {"label.round": "7"}, None, None)
    run, settings = open_run("run-1", place.profile(promote__valid_rate_min=0.25), None)
    assert run.run_id == "run-1"
    assert (settings.label.round, settings.promote.valid_rate_min) == ("7", 0.25)
    with pytest.raises(ReelRouteError):
        open_run("run-2", place.profile(), None)
