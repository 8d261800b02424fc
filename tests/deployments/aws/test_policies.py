"""The stack's policies: each grants what its code calls, nothing less and nothing more."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import botocore.session
import pytest
import yaml
from botocore import xform_name

from deployments.embedded.calls import Call
from tests.conftest import Finished

ROOT: Final = Path(__file__).parents[3]
STACK: Final = ROOT / "deployments" / "aws" / "stack.yaml"
BEDROCK: Final = {"Service": "bedrock.amazonaws.com"}

#: What an operation of S3 or Bedrock needs to be allowed, where that isn't its own name.
NEEDS: Final = {
    "bedrock:Converse": {"bedrock:InvokeModel"},
    "s3:DeleteObjects": {"s3:DeleteObject"},
    "s3:HeadObject": {"s3:GetObject"},
    "s3:ListObjectsV2": {"s3:ListBucket"},
    # What is put into quarantine is tagged as it is written.
    "s3:PutObject": {"s3:PutObject", "s3:PutObjectTagging"},
    # Jobs and deployments are tagged as they are made, and jobs work under a role.
    "bedrock:CreateCustomModelDeployment": {
        "bedrock:CreateCustomModelDeployment",
        "bedrock:TagResource",
    },
    "bedrock:CreateEvaluationJob": {
        "bedrock:CreateEvaluationJob",
        "bedrock:TagResource",
        "iam:PassRole",
    },
    "bedrock:CreateModelInvocationJob": {
        "bedrock:CreateModelInvocationJob",
        "bedrock:TagResource",
        "iam:PassRole",
    },
    "bedrock:CreateProvisionedModelThroughput": {
        "bedrock:CreateProvisionedModelThroughput",
        "bedrock:TagResource",
    },
    "bedrock:CreateModelCustomizationJob": {
        "bedrock:CreateModelCustomizationJob",
        "bedrock:TagResource",
        "iam:PassRole",
    },
}
#: The doctor's calls of S3, as the call log names them.
DOCTORS: Final = {
    "s3:GET ?encryption": {"s3:GetEncryptionConfiguration"},
    "s3:GET ?location": {"s3:GetBucketLocation"},
    "s3:GET ?policy": {"s3:GetBucketPolicy"},
    "s3:GET ?publicAccessBlock": {"s3:GetBucketPublicAccessBlock"},
    "s3:GET ?versioning": {"s3:GetBucketVersioning"},
    "sts:GetCallerIdentity": set(),  # everybody may ask who they are
}


class _Template(yaml.SafeLoader):
    """Reads CloudFormation's short forms: `!Sub x` as {"!Sub": "x"}."""


def _short_form(loader: _Template, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {f"!{suffix}": value}


_Template.add_multi_constructor("!", _short_form)


@cache
def template(path: Path = STACK) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), _Template)
    return loaded


def statements(resource: str) -> Iterator[dict[str, Any]]:
    """A managed policy's statements, those too that stand under a condition."""

    def walk(entry: Any) -> Iterator[dict[str, Any]]:
        if "Action" in entry:
            yield entry
        elif "!If" in entry:
            for branch in entry["!If"][1:]:
                yield from walk(branch)

    properties = template()["Resources"][resource]["Properties"]
    for entry in properties["PolicyDocument"]["Statement"]:
        yield from walk(entry)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def granted(*resources: str) -> set[str]:
    return {
        action
        for resource in resources
        for statement in statements(resource)
        for action in listed(statement["Action"])
    }


@cache
def operations() -> dict[str, str]:
    """The name of each method of boto3's clients to the action of its operation."""
    loader = botocore.session.get_session()
    found = {"download_file": "s3:GetObject"}
    for service, prefix in (("s3", "s3"), ("bedrock", "bedrock"), ("bedrock-runtime", "bedrock")):
        model = loader.get_service_model(service)
        found |= {xform_name(name): f"{prefix}:{name}" for name in model.operation_names}
    return found


def called(*rooms: str, leave_out: str = "/doctor/") -> set[str]:
    """The operations that the code of some rooms calls or names: methods and paginators."""
    names = set()
    for room in rooms:
        for path in (ROOT / room).rglob("*.py"):
            if leave_out in path.as_posix():
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                        names.add(name)
    return {operations()[name] for name in names & operations().keys()}


def waited() -> set[str]:
    """The operations that waiters ask."""
    waiters = json.loads((ROOT / "tasks" / "waiters.json").read_text())["waiters"].values()
    return {f"bedrock:{waiter['operation']}" for waiter in waiters}


def needed(operations: set[str]) -> set[str]:
    return {action for name in operations for action in NEEDS.get(name, {name})}


def as_actions(calls: list[Call]) -> set[str]:
    """Calls of the call log as operations."""
    names = {"POST ?delete": "DeleteObjects"}
    services = {"bedrock-runtime": "bedrock"}
    return {
        f"{services.get(call.service, call.service)}:{names.get(call.operation, call.operation)}"
        for call in calls
    }


def test_the_worker_may_do_exactly_what_its_code_calls() -> None:
    assert granted("WorkerPolicy", "AskModelsPolicy") == needed(called("flows", "tasks") | waited())


def test_a_whole_run_calls_nothing_that_the_worker_may_not(finished: Finished) -> None:
    ran = needed(as_actions(list(finished.calls)))
    assert len(ran) > 10
    assert ran - granted("WorkerPolicy", "AskModelsPolicy") == set()


def test_the_application_may_do_exactly_what_the_library_calls() -> None:
    assert granted("ApplicationPolicy") == needed(called("reelroute"))


def test_the_doctor_may_do_exactly_what_it_calls(doctors_calls: list[Call]) -> None:
    asked = as_actions(doctors_calls) | {"s3:GET ?policy"}  # left out over plain HTTP
    named = {action for name in asked for action in DOCTORS.get(name, needed({name}))}
    assert granted("DoctorPolicy") == named


@pytest.mark.parametrize(
    "policy",
    [
        "WorkerPolicy",
        "AskModelsPolicy",
        "ApplicationPolicy",
        "DoctorPolicy",
        "JobDataPolicy",
        "KeyPolicy",
        "KeyReaderPolicy",
    ],
)
def test_only_what_looks_may_look_everywhere(policy: str) -> None:
    for statement in statements(policy):
        actions = listed(statement["Action"])
        assert not any("*" in action for action in actions), statement
        if "*" in listed(statement["Resource"]):
            assert all(a.split(":")[1].startswith(("Get", "List")) for a in actions), statement


def test_the_application_may_ask_whatever_a_release_can_name() -> None:
    (asks,) = [s for s in statements("ApplicationPolicy") if "Condition" in s]
    kinds = {resource["!Sub"].split(":")[-1] for resource in listed(asks["Resource"])}
    assert kinds == {"custom-model-deployment/*", "provisioned-model/*"}
    pattern = template()["Parameters"]["ServingDeploymentArn"]["AllowedPattern"]
    for kind in kinds:
        arn = f"arn:aws:bedrock:us-east-1:123456789012:{kind.replace('*', 'a1b2c3d4e5f6')}"
        assert re.fullmatch(pattern, arn)
    assert not re.fullmatch(pattern, "arn:aws:bedrock:us-east-1:123456789012:custom-model/a/b")


def test_bedrock_itself_may_use_the_key_and_deliver_its_logs_for_this_account_alone() -> None:
    resources = template()["Resources"]
    key = resources["Key"]["Properties"]["KeyPolicy"]["Statement"]
    bucket = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    lent = {s["Sid"]: s for s in [*key, *bucket] if s["Principal"] == BEDROCK}
    assert set(lent) == {"Bedrock", "ProvisionedModels", "InvocationLogs"}
    for sid in ("Bedrock", "InvocationLogs"):
        condition = lent[sid]["Condition"]
        assert condition["StringEquals"] == {"aws:SourceAccount": {"!Ref": "AWS::AccountId"}}
        assert condition["ArnLike"]["aws:SourceArn"]["!Sub"].endswith(":${AWS::AccountId}:*")
    assert lent["InvocationLogs"]["Resource"]["!Sub"].startswith("${Bucket.Arn}/logs/AWSLogs/")


@pytest.mark.parametrize("sid", ["RemoveOurs", "AskOwnDeployments"])
def test_what_is_removed_or_asked_carries_the_environments_tags(sid: str) -> None:
    (statement,) = [s for s in statements("WorkerPolicy") if s["Sid"] == sid]
    assert statement["Condition"]["StringEquals"] == {
        "aws:ResourceTag/project": "reelroute",
        "aws:ResourceTag/environment": {"!Ref": "Environment"},
    }


@pytest.mark.parametrize(
    ("role", "job"),
    [
        ("CustomizationRole", "model-customization-job"),
        ("BatchRole", "model-invocation-job"),
        ("EvaluationRole", "evaluation-job"),
    ],
)
def test_a_jobs_role_trusts_this_accounts_jobs_of_its_kind_alone(role: str, job: str) -> None:
    document = template()["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]
    (statement,) = document["Statement"]
    assert statement["Principal"] == {"Service": "bedrock.amazonaws.com"}
    condition = statement["Condition"]
    assert condition["StringEquals"] == {"aws:SourceAccount": {"!Ref": "AWS::AccountId"}}
    source = condition["ArnLike"]["aws:SourceArn"]["!Sub"]
    assert source.endswith(f":bedrock:${{AWS::Region}}:${{AWS::AccountId}}:{job}/*")


# --- against the service authorization reference, as policy-sentry carries it --------------------


def arn_kinds(arn: str) -> tuple[str, str]:
    """Service and kind of resource of an ARN: `arn:aws:bedrock:…:custom-model/*`."""
    _, _, service, _, _, resource = re.sub(r"\$\{AWS::\w+\}", "x", arn).split(":", 5)
    return service, resource.partition("/")[0] if "/" in resource else "bucket"


def written(resource: Any) -> str:
    """A resource of the template as an ARN with placeholders."""
    if isinstance(resource, str):
        return resource
    ((form, value),) = resource.items()
    kinds = {
        "Bucket.Arn": "arn:aws:s3:::bucket",
        "Key.Arn": "arn:aws:kms:r:a:key/x",
        "ServingDeploymentArn": "arn:aws:bedrock:r:a:custom-model-deployment/x",
    }
    if form == "!Sub":
        return str(value).replace("${Bucket.Arn}", kinds["Bucket.Arn"])
    return kinds.get(value, "arn:aws:iam::a:role/x")


def fits(resource: str, known: str) -> bool:
    """Whether a resource is of a kind that an action knows."""
    if "*" in (resource, known):
        return resource == known
    service, kind = arn_kinds(resource)
    if service == "s3":  # a bucket or its objects
        return known.startswith("arn:${Partition}:s3:::") and ("/" in resource) == ("/" in known)
    return (service, kind) == arn_kinds(known)


@pytest.mark.parametrize(
    "policy",
    [
        "WorkerPolicy",
        "AskModelsPolicy",
        "ApplicationPolicy",
        "DoctorPolicy",
        "JobDataPolicy",
        "KeyPolicy",
        "KeyReaderPolicy",
    ],
)
def test_every_action_exists_and_knows_a_resource_of_its_statement(policy: str) -> None:
    from policy_sentry.querying.actions import get_action_data

    for statement in statements(policy):
        resources = [written(resource) for resource in listed(statement["Resource"])]
        for action in listed(statement["Action"]):
            service, name = action.split(":")
            rows = get_action_data(service, name)
            assert rows, f"there is no action {action}"
            known = {row["resource_arn_format"] for row in rows[service]}
            assert any(fits(resource, arn) for resource in resources for arn in known) or (
                resources == ["*"] and name.startswith(("Get", "List"))
            ), f"{action} knows {known}, not {resources}"
