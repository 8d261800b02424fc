"""What stages share: names and tokens, retries, errors without stack traces, progress."""

from __future__ import annotations

import re

import pytest

import tasks.base
from reelroute.errors import AwsError, BudgetExceeded, RetryableAwsError, StageError
from tasks.base import Progress, code_hash, stage_task
from tasks.runs import Run
from tasks.storage import Storage
from tests.support import Place

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_names_and_tokens_are_the_same_after_a_kill_and_new_with_the_attempt(place: Place) -> None:
    first, again = place.stage("distill"), place.stage("distill")
    later = place.stage("distill", attempt=2)
    assert (first.name(), first.token()) == (again.name(), again.token())
    assert first.name() != later.name()
    assert first.token() != later.token()
    assert first.name_stem() == later.name_stem()
    assert later.name() == f"{later.name_stem()}-a2"


def test_names_depend_on_run_stage_inputs_and_parts(place: Place) -> None:
    run_1, run_2 = place.run("run-1"), place.run("run-2")
    stages = [
        place.stage("distill", run=run_1),
        place.stage("distill", run=run_2),
        place.stage("deploy", run=run_1),
        place.stage("distill", run=run_1, inputs={"other": "1"}),
    ]
    names = {stage.name() for stage in stages} | {stages[0].name("part")}
    tokens = {stage.token() for stage in stages} | {stages[0].token("part")}
    assert len(names) == len(tokens) == 5


def test_two_environments_of_one_account_share_no_name(place: Place) -> None:
    """The same profile, run and inputs, but another bucket."""
    mine, other = (
        place.stage("distill", run=Run(Storage(settings), "run-1"), settings=settings, inputs={})
        for settings in (place.settings(), place.settings(storage__bucket="another-bucket"))
    )
    assert mine.name_prefix != other.name_prefix
    assert mine.name().startswith(mine.name_prefix)
    assert mine.name_stem() != other.name_stem()
    assert mine.token() != other.token()


@pytest.mark.parametrize("run_id", ["r", "a-run-with-a-name-of-forty-characters-00"])
@pytest.mark.parametrize("attempt", [1, 999])
def test_names_are_what_the_service_takes(run_id: str, attempt: int, place: Place) -> None:
    stage = place.stage("evaluate", run=place.run(run_id), attempt=attempt)
    for name in (stage.name(), stage.name("distilled-student"), stage.name("current-release")):
        assert re.fullmatch(r"[a-z0-9](-*[a-z0-9]){0,62}", name)
        assert len(name) <= 63


def test_everything_made_in_aws_is_tagged_with_environment_and_run(place: Place) -> None:
    tags = {tag["key"]: tag["value"] for tag in place.stage("distill").tags()}
    assert tags == {"project": "reelroute", "environment": "local", "run": "run-1"}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that wait for nothing."""
    monkeypatch.setattr(tasks.base, "exponential_backoff", lambda factor: lambda n: [0.0] * n)


@pytest.mark.usefixtures("at_once")
def test_what_a_later_try_may_mend_is_tried_again() -> None:
    tries = []

    @stage_task
    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise RetryableAwsError("throttled")
        return "done"

    assert flaky() == "done"
    assert len(tries) == 3


@pytest.mark.usefixtures("at_once")
def test_after_all_retries_the_error_is_raised_as_it_is() -> None:
    tries = []

    @stage_task
    def down() -> None:
        tries.append(1)
        raise RetryableAwsError("still throttled")

    with pytest.raises(RetryableAwsError, match="still throttled"):
        down()
    assert len(tries) == 1 + tasks.base.TASK_RETRIES


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("error", [StageError, AwsError, BudgetExceeded])
def test_what_no_later_try_will_mend_ends_at_once(error: type[Exception]) -> None:
    tries = []

    @stage_task
    def broken() -> None:
        tries.append(1)
        raise error("for good")

    with pytest.raises(error, match="for good"):
        broken()
    assert len(tries) == 1


@pytest.mark.usefixtures("at_once")
def test_a_failed_task_prints_a_sentence_and_no_stack_trace(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    @stage_task
    def broken() -> None:
        raise StageError("the cable is cut")

    with pytest.raises(StageError):
        broken()
    said = caplog.text + "".join(capfd.readouterr())
    assert "the cable is cut" in said
    assert "Traceback" not in said


def test_a_bug_is_not_taken_for_a_sentence() -> None:
    @stage_task
    def wrong() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        wrong()


def test_a_task_keeps_its_functions_name_and_docstring() -> None:
    @stage_task
    def named() -> None:
        """Do it."""

    assert (named.__name__, named.__doc__) == ("named", "Do it.")


def test_outside_a_run_progress_shows_nothing_and_counts_on() -> None:
    progress = Progress("key", "what", total=4)
    progress.advance()
    progress.advance(2)
    assert progress.done == 3
    progress.show(4, "all")
    assert progress.done == 4


def test_the_code_hash_is_that_of_one_module() -> None:
    assert code_hash("tasks.base") == code_hash("tasks.base") != code_hash("tasks.runs")
