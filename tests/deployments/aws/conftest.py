"""The stack in the embedded AWS, once for these tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.embedded.aws import EmbeddedAws
from deployments.embedded.calls import Call
from tasks.doctor import Setup, diagnose
from tests.support import CallsSince, Place

STACK = Path(__file__).parents[3] / "deployments" / "aws" / "stack.yaml"


@dataclass(frozen=True)
class Stack:
    """A stack that was deployed."""

    aws: EmbeddedAws
    name: str
    outputs: dict[str, str]
    resources: dict[str, str]

    def client(self, service: str) -> Any:
        return self.aws.client(service)


@pytest.fixture(scope="session")
def stack(session_aws: EmbeddedAws) -> Stack:
    """`aws cloudformation deploy` of deployments/aws/stack.yaml, as docs/aws.md has it."""
    client = session_aws.client("cloudformation")
    parameters = {"Environment": "stack-test", "BudgetEmail": "ml@example.com"}
    client.create_stack(
        StackName="reelroute-stack-test",
        TemplateBody=STACK.read_text(encoding="utf-8"),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    (made,) = client.describe_stacks(StackName="reelroute-stack-test")["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    listed = client.list_stack_resources(StackName="reelroute-stack-test")
    return Stack(
        session_aws,
        "reelroute-stack-test",
        {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]},
        {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in listed["StackResourceSummaries"]
            if resource.get("LogicalResourceId")
        },
    )


@pytest.fixture
def doctors_calls(place: Place) -> list[Call]:
    """What the doctor asks AWS, inference profiles included."""
    typed = place.settings(models__judge__id="us.embedded.rubric-judge-v1:0")
    since = CallsSince(place.aws)
    list(diagnose(Setup(typed)))
    return since.all()
