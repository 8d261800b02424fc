"""What becomes of every error and every state that the services' API models have, at the wire.

The operations are read out of the code, the errors and states out of the API models: a new one
of any of them fails a test here until the tables say what is to become of it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import botocore.session
import pytest
from botocore import xform_name

import tasks.base
from configs.settings import ROOT
from data_contracts.evaluation import DISTILLED_STUDENT, Prediction
from data_contracts.heldout import benchmark_queries
from deployments.embedded.bedrock import provisioned
from deployments.embedded.bedrock.reported import REASON
from deployments.embedded.faults import (
    REPORTED_STATE,
    SERVICE_ERROR,
    STATES,
    STUCK_JOBS,
    THROTTLING,
)
from deployments.embedded.strikes import INJECTED
from reelroute.errors import ReelRouteError, RetryableAwsError, StageError
from tasks.answer_text import answer_text
from tasks.base import StageContext
from tasks.batch import Job, collect_batch, note_batch, open_batches, start_batch
from tasks.candidates import Asked
from tasks.cleanup import Removal, _tags, plan_cleanup, remove
from tasks.cost import CostMeter
from tasks.deploy import (
    buy_provisioned,
    create_deployment,
    deployment_status,
    deployment_still_active,
    find_deployment,
    wait_until_active,
)
from tasks.distill import model_exists, start_job, wait_for_model
from tasks.evaluate import HeldOut, predict
from tasks.judge import read_judge, start_judge
from tasks.label import Teacher, weights_key
from tasks.models import Model
from tasks.releases import current_pointer, load_release
from tasks.stable import _move, _Wanted
from tests.conftest import Finished
from tests.support import TEACHER, CallsSince, Place, corpus_rows, fault, record
from tests.tasks.test_distill import distilling

pytestmark = pytest.mark.usefixtures("prefect_server")

BATCH: Final[dict[str, Any]] = {
    "label__batch_from": 100,
    "label__batch_role_arn": "arn:aws:iam::123456789012:role/reelroute-bedrock",
    "label__batch_poll_seconds": 0.02,
}
PROVISIONED: Final[dict[str, Any]] = {
    "deploy__mode": "provisioned",
    "deploy__provisioned": {"units": 1, "confirm_usd_per_hour": 20},
}
#: Looked at by the doctor alone, which is held to a table of its own (test_doctor.py), or before
#: a run, where it warns (test_lifecycle.py).
ELSEWHERE: Final = {
    "GetBucketEncryption",
    "GetBucketLocation",
    "GetBucketPolicy",
    "GetBucketVersioning",
    "GetFoundationModel",
    "GetFoundationModelAvailability",
    "GetInferenceProfile",
    "GetPublicAccessBlock",
}
SERVICES: Final = ("bedrock", "bedrock-runtime", "s3")
ROOMS: Final = ("reelroute", "tasks", "flows")
GONE: Final = "arn:aws:bedrock:us-east-1:123456789012:{}/0123456789ab"

# --- what becomes of errors --------------------------------------------------------------------

#: A later try may mend it: the task tries again.
RETRIED: Final = {
    "InternalServerException",
    "ModelErrorException",
    "ModelNotReadyException",
    "ModelTimeoutException",
    "ServiceUnavailableException",
    "ThrottlingException",
}
#: No later try mends it: the stage fails with what the service says.
FAILED: Final = {
    "AccessDeniedException",
    "ConflictException",
    "EncryptionTypeMismatch",
    "InvalidObjectState",
    "InvalidRequest",
    "InvalidWriteOffset",
    "NoSuchBucket",
    "ResourceNotFoundException",
    "ServiceQuotaExceededException",
    "TooManyParts",
    "TooManyTagsException",
    "ValidationException",
}
#: Where the error is an answer: what is made of it.
ANSWERS: Final = {
    ("DeleteCustomModel", "ResourceNotFoundException"): None,
    ("DeleteCustomModelDeployment", "ResourceNotFoundException"): None,
    ("GetCustomModel", "ResourceNotFoundException"): False,
    ("GetCustomModelDeployment", "ResourceNotFoundException"): "gone",
    ("DeleteProvisionedModelThroughput", "ResourceNotFoundException"): None,
    ("GetObject", "NoSuchKey"): None,
    ("GetProvisionedModelThroughput", "ResourceNotFoundException"): "gone",
    ("HeadObject", "NoSuchKey"): False,
    ("ListTagsForResource", "ResourceNotFoundException"): {},
}

# --- what becomes of states --------------------------------------------------------------------

#: By operation and state: waited for, done, or the end of the stage with the service's reason.
WAITED_FOR: Final = {
    "GetModelCustomizationJob": {
        "InProgress": "waits",
        "Completed": "done",
        "Failed": "fails",
        "Stopping": "waits",
        "Stopped": "fails",
    },
    "GetCustomModelDeployment": {"Creating": "waits", "Active": "done", "Failed": "fails"},
    "GetEvaluationJob": {
        "InProgress": "waits",
        "Completed": "done",
        "Failed": "fails",
        "Stopping": "waits",
        "Stopped": "fails",
        "Deleting": "fails",
    },
    # Whatever it ends as, what it has answered is read, and the rest asked for again.
    "GetModelInvocationJob": {
        "Submitted": "waits",
        "Validating": "waits",
        "Scheduled": "waits",
        "InProgress": "waits",
        "Stopping": "waits",
        "Completed": "done",
        "PartiallyCompleted": "done",
        "Expired": "done",
        "Failed": "done",
        "Stopped": "done",
    },
    "GetProvisionedModelThroughput": {
        "Creating": "waits",
        "Updating": "waits",
        "InService": "done",
        "Failed": "fails",
    },
}
#: By listing and state: whether a later attempt takes up what an earlier one has made.
TAKEN_UP: Final = {
    "ListModelCustomizationJobs": {
        "InProgress": True,
        "Completed": True,
        "Failed": False,
        "Stopping": False,
        "Stopped": False,
    },
    "ListCustomModelDeployments": {"Creating": True, "Active": True, "Failed": False},
    "ListEvaluationJobs": {
        "InProgress": True,
        "Completed": True,
        "Failed": False,
        "Stopping": False,
        "Stopped": False,
        "Deleting": False,
    },
    # Its note in the bucket names the job, whatever it ended as; its answers are read.
    "ListModelInvocationJobs": {
        "Submitted": True,
        "Validating": True,
        "Scheduled": True,
        "InProgress": True,
        "Stopping": True,
        "Completed": True,
        "PartiallyCompleted": True,
        "Expired": True,
        "Failed": True,
        "Stopped": True,
    },
    "ListProvisionedModelThroughputs": {
        "Creating": True,
        "Updating": True,
        "InService": True,
        "Failed": False,
    },
}
#: Whether a custom model in this state can be used again, and a deployment still be relied on.
USABLE: Final = {
    "GetCustomModel": {"Active": True, "Creating": False, "Failed": False},
    "GetCustomModelDeployment": {"Active": True, "Creating": False, "Failed": False},
}
#: Whether an answer that ended so has its text; an empty one is no valid answer to anybody.
TEXT: Final = {
    "end_turn": True,
    "tool_use": True,
    "max_tokens": True,
    "stop_sequence": True,
    "guardrail_intervened": False,
    "content_filtered": False,
    "malformed_model_output": True,
    "malformed_tool_use": True,
    "model_context_window_exceeded": True,
}


# --- what the product calls --------------------------------------------------------------------


@dataclass
class World:
    """A place with what the finished pipeline has made beside it."""

    place: Place
    finished: Finished

    def made(self, stage: Any, name: str) -> str:
        return self.finished.run.completed(stage).resources[name]

    def deploying(self, **more: Any) -> StageContext:
        return self.place.stage("deploy", **more)

    def judging(self, **more: Any) -> StageContext:
        return self.place.stage("evaluate", **more)

    def labelling(self, attempt: int = 1) -> StageContext:
        settings = self.place.settings(**BATCH)
        run = self.place.run("run-1", settings=settings)
        return self.place.stage("label", settings=settings, run=run, attempt=attempt)

    def buying(self, attempt: int = 1) -> StageContext:
        settings = self.place.settings(**PROVISIONED)
        return self.place.stage("deploy", settings=settings, attempt=attempt)

    def bought(self) -> str:
        return once(buy_provisioned)(self.buying(), self.made("distill", "model_arn"))

    def judge_job(self) -> tuple[StageContext, tuple[str, ...]]:
        stage = self.judging()
        return stage, once(start_judge)(stage, DISTILLED_STUDENT, answers())

    def removed(self, kind: Any, resource: str) -> Callable[[], None]:
        settings = self.place.settings()
        target = Removal(kind, "name", GONE.format(resource), "unused")
        return lambda: remove(settings, self.place.storage(), target)


def once(task: Callable[..., Any]) -> Callable[..., Any]:
    """What a task does in one try, without Prefect's retries."""
    inner: Callable[..., Any] = task.__wrapped__  # type: ignore[attr-defined]
    return inner


@cache
def answers() -> list[Prediction]:
    return [
        predict(
            DISTILLED_STUDENT,
            HeldOut(row, "benchmark"),
            Asked(answer_text(row.weights), latency_ms=1.0),
        )
        for row in benchmark_queries()[:2]
    ]


def asking(world: World) -> Callable[[], str]:
    settings = world.place.settings()
    model = Model(
        world.place.aws.client("bedrock-runtime"),
        TEACHER,
        settings.models.teacher,
        settings.price(settings.models.teacher),
        CostMeter(1.0),
    )
    return lambda: model.ask("prompt", ["dog barking loudly"]).text


def reading_judge(world: World) -> Callable[[], Any]:
    stage, arns = world.judge_job()
    return lambda: once(read_judge)(stage, DISTILLED_STUDENT, arns, answers())


def starting_batch(world: World) -> Callable[[], Any]:
    stage = world.labelling()
    noted = once(note_batch)(stage, Teacher(stage), texts(), 1)
    return lambda: once(start_batch)(stage, noted)


def collecting_batch(world: World) -> Callable[[], Any]:
    stage = world.labelling()
    teacher, wanted = Teacher(stage), {weights_key(text): text for text in texts()}
    noted = once(note_batch)(stage, teacher, texts(), 1)
    arn = once(start_batch)(stage, noted)
    return lambda: once(collect_batch)(stage, teacher, Job(noted, arn, lambda: None), wanted)


def looking_at_bought(world: World) -> Callable[[], str]:
    settings, arn = world.place.settings(), world.bought()
    return lambda: deployment_status(settings, arn)


def waiting_for_bought(world: World) -> Callable[[], None]:
    arn = world.bought()
    return lambda: once(wait_until_active)(world.buying(), arn)


def texts() -> list[str]:
    return [row.query for row in corpus_rows(100)]


def conflicting_put(world: World) -> Callable[[], bool]:
    """A conditional write that meets another's object, and looks whose it is."""
    storage = world.place.storage()
    storage.put_new("there.json", b"{}")
    return lambda: storage.put_new("there.json", b"[]")


def moving_stable(world: World) -> Callable[[], Any]:
    """The update of a deployment's model; its states are in test_stable.py."""
    settings, model_arn = world.place.settings(), world.made("distill", "model_arn")
    arn = once(create_deployment)(world.deploying(), model_arn)
    once(wait_until_active)(world.deploying(), arn)
    current = current_pointer(world.finished.run.storage)
    assert current
    release = load_release(world.finished.run.storage, current.pointer)
    seen = {"customModelDeploymentArn": arn, "modelArn": model_arn}
    return lambda: _move(settings, seen, _Wanted(release, model_arn, serial=1))


def reading_tags(world: World) -> Callable[[], dict[str, str]]:
    settings, arn = world.place.settings(), world.made("deploy", "deployment_arn")
    return lambda: _tags(settings, arn)


#: How the product comes to call each operation.
CALLED: Final[dict[str, Callable[[World], Callable[[], Any]]]] = {
    "Converse": asking,
    "CreateCustomModelDeployment": lambda w: (
        lambda: once(create_deployment)(w.deploying(), w.made("distill", "model_arn"))
    ),
    "CreateEvaluationJob": lambda w: (
        lambda: once(start_judge)(w.judging(), DISTILLED_STUDENT, answers())
    ),
    "CreateModelCustomizationJob": lambda w: lambda: once(start_job)(distilling(w.place)),
    "CreateModelInvocationJob": starting_batch,
    "CreateProvisionedModelThroughput": lambda w: w.bought,
    "DeleteCustomModel": lambda w: w.removed("model", "custom-model/imported"),
    "DeleteCustomModelDeployment": lambda w: w.removed("deployment", "custom-model-deployment"),
    "DeleteProvisionedModelThroughput": lambda w: w.removed("provisioned", "provisioned-model"),
    "DeleteObjects": lambda w: lambda: w.place.storage().delete(["a"]),
    "GetCustomModel": lambda w: (
        lambda: model_exists(w.place.settings(), w.made("distill", "model_arn"))
    ),
    "GetCustomModelDeployment": lambda w: (
        lambda: deployment_status(w.place.settings(), w.made("deploy", "deployment_arn"))
    ),
    "GetEvaluationJob": reading_judge,
    "GetModelCustomizationJob": lambda w: (
        lambda: once(wait_for_model)(distilling(w.place), w.made("distill", "job_arn"))
    ),
    "GetModelInvocationJob": collecting_batch,
    "GetProvisionedModelThroughput": looking_at_bought,
    "GetObject": lambda w: lambda: w.place.storage().get("nothing"),
    "HeadObject": conflicting_put,
    "ListCustomModelDeployments": lambda w: (
        lambda: once(find_deployment)(w.deploying(), w.made("distill", "model_arn"))
    ),
    "ListCustomModels": lambda w: lambda: plan_cleanup(w.place.settings(), w.place.storage()),
    "ListEvaluationJobs": lambda w: (
        lambda: once(start_judge)(w.judging(), DISTILLED_STUDENT, answers())
    ),
    "ListModelCustomizationJobs": lambda w: lambda: once(start_job)(distilling(w.place)),
    "ListModelInvocationJobs": starting_batch,
    "ListProvisionedModelThroughputs": lambda w: w.bought,
    "ListObjectsV2": lambda w: lambda: list(w.place.storage().keys("nothing/")),
    "ListTagsForResource": reading_tags,
    "PutObject": lambda w: lambda: w.place.storage().put("a", b"1"),
    "UpdateCustomModelDeployment": moving_stable,
}


@cache
def models() -> dict[str, Any]:
    """The model of each operation of the services that the product calls."""
    session = botocore.session.Session()
    services = [session.get_service_model(name) for name in SERVICES]
    return {name: s.operation_model(name) for s in services for name in s.operation_names}


def called_in_the_code() -> set[str]:
    """The operations whose methods, or paginators, or waiters, are named in the code."""
    methods = {xform_name(name): name for name in models()}
    named = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                        named.add(name)
    waiters = json.loads((Path(tasks.base.__file__).parent / "waiters.json").read_text())
    return {methods[name] for name in named & methods.keys()} | {
        waiter["operation"] for waiter in waiters["waiters"].values()
    }


def states(operation: str) -> set[str]:
    """The states that an operation's answer, or what it lists, can be in."""
    found = set()
    shape = models()[operation].output_shape
    listed = [
        member.member
        for member in shape.members.values()
        if member.type_name == "list" and member.member.type_name == "structure"
    ]
    for one in (shape, *listed):
        for name in ("status", "modelStatus", "stopReason"):
            if name in one.members:
                found |= set(one.members[name].enum)
    return found


@pytest.fixture
def world(place: Place, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(provisioned, "SECONDS_TO_SERVICE", 0)
    # What is created here is not waited for, so it need not train.
    with fault(place.aws, STUCK_JOBS, operations=["CreateModelCustomizationJob"]):
        yield World(place, finished)


# --- the tables are whole ----------------------------------------------------------------------


def test_every_operation_that_the_code_calls_is_in_the_table() -> None:
    assert called_in_the_code() == CALLED.keys() | ELSEWHERE


def test_every_state_of_the_api_models_is_in_the_tables() -> None:
    for table in (WAITED_FOR, TAKEN_UP, USABLE, {"Converse": TEXT}):
        for operation, known in table.items():
            assert states(operation) == known.keys(), operation
    assert {s for table in (WAITED_FOR, TAKEN_UP) for known in table.values() for s in known} | (
        TEXT.keys()
    ) <= set(STATES)


# --- errors ------------------------------------------------------------------------------------

ERRORS: Final = [
    (operation, shape.error_code)
    for operation in CALLED
    for shape in models()[operation].error_shapes
]


@pytest.mark.parametrize(("operation", "code"), ERRORS)
def test_every_error_of_the_api_model_is_retried_or_ends_the_stage_in_the_services_words(
    operation: str, code: str, world: World, calls: CallsSince
) -> None:
    call = CALLED[operation](world)
    before = calls.count(operation)
    world.place.aws.faults.set(SERVICE_ERROR, style=code, operations=[operation], times=1)
    if (operation, code) in ANSWERS:
        assert call() == ANSWERS[operation, code]
        return
    assert (code in RETRIED) != (code in FAILED), f"what becomes of {code}? Say it in the table"
    with pytest.raises(ReelRouteError) as error:
        call()
    assert calls.count(operation) == before + 1
    assert isinstance(error.value, RetryableAwsError) == (code in RETRIED)
    assert INJECTED in str(error.value) or "the bucket doesn't exist" in str(error.value)
    if code in RETRIED:
        call()  # goes on where it was
        assert calls.count(operation) > before + 1


def test_prefect_tries_again_until_the_service_answers(
    world: World, calls: CallsSince, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.base, "exponential_backoff", lambda factor: lambda n: [0.0] * n)
    retried = tasks.base.stage_task(once(start_judge))
    with fault(world.place.aws, THROTTLING, operations=["CreateEvaluationJob"], times=3):
        assert len(retried(world.judging(), DISTILLED_STUDENT, answers())) == 1
    assert calls.count("CreateEvaluationJob") == 1 + 3


# --- states ------------------------------------------------------------------------------------

WAITING: Final[dict[str, Callable[[World], Callable[[], Any]]]] = {
    "GetModelCustomizationJob": CALLED["GetModelCustomizationJob"],
    "GetEvaluationJob": reading_judge,
    "GetModelInvocationJob": collecting_batch,
    "GetProvisionedModelThroughput": waiting_for_bought,
    "GetCustomModelDeployment": lambda w: (
        lambda: once(wait_until_active)(w.deploying(), w.made("deploy", "deployment_arn"))
    ),
}


@pytest.mark.parametrize(
    ("operation", "state"), [(o, state) for o, known in WAITED_FOR.items() for state in known]
)
def test_every_state_is_waited_for_or_done_or_fails_with_the_services_reason(
    operation: str, state: str, world: World, calls: CallsSince
) -> None:
    call = WAITING[operation](world)
    if operation == "GetEvaluationJob":
        call()  # the job itself is done from here on
    before, becomes = calls.count(operation), WAITED_FOR[operation][state]
    times = 2 if becomes == "waits" else 0
    with fault(world.place.aws, REPORTED_STATE, style=state, operations=[operation], times=times):
        if becomes == "fails":
            reason = REASON if state == "Failed" else "no reason given"
            with pytest.raises(StageError, match=f"ended as {state}: {reason}"):
                call()
        else:
            call()
    assert calls.count(operation) - before == (3 if becomes == "waits" else 1)


TAKING: Final[dict[str, Callable[[World, int], Any]]] = {
    "ListModelCustomizationJobs": lambda w, n: once(start_job)(distilling(w.place, attempt=n)),
    "ListCustomModelDeployments": lambda w, n: once(create_deployment)(
        w.deploying(attempt=n), w.made("distill", "model_arn")
    ),
    "ListEvaluationJobs": lambda w, n: once(start_judge)(
        w.judging(attempt=n), DISTILLED_STUDENT, answers()
    ),
    "ListModelInvocationJobs": lambda w, n: taking_batch(w, n),
    "ListProvisionedModelThroughputs": lambda w, n: once(buy_provisioned)(
        w.buying(attempt=n), w.made("distill", "model_arn")
    ),
}


def taking_batch(world: World, attempt: int) -> Any:
    """The job of the first attempt's batch, which the attempt finds noted or notes."""
    stage = world.labelling(attempt)
    teacher = Teacher(stage)
    noted = once(open_batches)(stage, teacher, texts()) or [
        once(note_batch)(stage, teacher, texts(), 1)
    ]
    return once(start_batch)(stage, noted[0])


@pytest.mark.parametrize(
    ("operation", "state"), [(o, state) for o, known in TAKEN_UP.items() for state in known]
)
def test_what_an_earlier_attempt_made_is_taken_up_unless_it_ended_badly(
    operation: str, state: str, world: World
) -> None:
    first = TAKING[operation](world, 1)
    with fault(world.place.aws, REPORTED_STATE, style=state, operations=[operation]):
        assert TAKING[operation](world, 1) == first, "an attempt takes up its own whatever it is"
        assert (TAKING[operation](world, 2) == first) == TAKEN_UP[operation][state]


@pytest.mark.parametrize("state", USABLE["GetCustomModel"])
def test_only_an_active_model_is_used_again(state: str, world: World) -> None:
    exists = CALLED["GetCustomModel"](world)
    with fault(world.place.aws, REPORTED_STATE, style=state, operations=["GetCustomModel"]):
        assert exists() == USABLE["GetCustomModel"][state]


@pytest.mark.parametrize("state", USABLE["GetCustomModelDeployment"])
def test_a_stage_is_skipped_only_while_its_deployment_is_active(state: str, world: World) -> None:
    done = record(
        world.place.run(),
        "deploy",
        resources={"deployment_arn": world.made("deploy", "deployment_arn")},
    )
    operation = "GetCustomModelDeployment"
    with fault(world.place.aws, REPORTED_STATE, style=state, operations=[operation]):
        assert deployment_still_active(world.place.settings(), done) == USABLE[operation][state]


@pytest.mark.parametrize("reason", TEXT)
def test_an_answer_that_was_held_back_is_the_empty_text(reason: str, world: World) -> None:
    ask = asking(world)
    with fault(world.place.aws, REPORTED_STATE, style=reason):
        assert bool(ask()) == TEXT[reason]
