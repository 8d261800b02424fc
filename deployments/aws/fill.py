"""Writes what a stack made into a profile, or into the ECS work pool's file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from reelroute.aws import AwsAccess, speaking
from reelroute.errors import ConfigError

Values = dict[str, Any]


def _text(name: str) -> Callable[[Mapping[str, str]], Any]:
    return lambda made: made.get(name)


def _network(made: Mapping[str, str]) -> Any:
    if "Subnets" not in made:
        return None
    return {
        "subnets": made["Subnets"].split(","),
        "securityGroups": [made["SecurityGroup"]],
        "assignPublicIp": "DISABLED",
    }


def _logs(made: Mapping[str, str]) -> Any:
    group = made.get("LogGroupName")
    return {"awslogs-group": group, "awslogs-create-group": "false"} if group else None


#: Settings of a profile, and of a work pool's file, from a stack's outputs and its parameters;
#: what gives None stays as it is.
PROFILE: Final[dict[str, Callable[[Mapping[str, str]], Any]]] = {
    "environment": _text("Environment"),
    "aws.region": _text("Region"),
    "storage.bucket": _text("BucketName"),
    "storage.encryption": lambda made: "aws:kms" if "KeyArn" in made else None,
    "storage.kms_key_id": _text("KeyArn"),
    "label.batch_role_arn": _text("BatchRoleArn"),
    "distill.role_arn": _text("CustomizationRoleArn"),
    "distill.kms_key_id": _text("KeyArn"),
    "evaluate.role_arn": _text("EvaluationRoleArn"),
    "evaluate.kms_key_id": _text("KeyArn"),
}
WORK_POOL: Final[dict[str, Callable[[Mapping[str, str]], Any]]] = {
    "variables.image": lambda made: (
        f"{made['RepositoryUri']}:latest" if "RepositoryUri" in made else None
    ),
    "variables.cluster": _text("Cluster"),
    "variables.execution_role_arn": _text("ExecutionRoleArn"),
    "variables.task_role_arn": _text("WorkerRoleArn"),
    "variables.vpc_id": _text("VpcId"),
    "variables.network_configuration": _network,
    "variables.cloudwatch_logs_options": _logs,
}


def stack_values(stack: str, region: str) -> dict[str, str]:
    """A stack's outputs, with its `Environment` and its `Region`.

    Raises:
        ConfigError: it isn't there, or not finished.
        AwsError: CloudFormation can't be asked.
    """
    from botocore.exceptions import ClientError

    client = AwsAccess(region).client("cloudformation")
    with speaking(f"looking up the stack {stack}"):
        try:
            (found,) = client.describe_stacks(StackName=stack)["Stacks"]
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "ValidationError":
                raise
            raise ConfigError(
                f"there is no stack {stack!r} in {region}: deploy deployments/aws/stack.yaml, or "
                "name another --stack or --region"
            ) from None
    if found["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise ConfigError(
            f"the stack {stack} is {found['StackStatus']}: wait until it is complete, or look at "
            f"`aws cloudformation describe-stack-events --stack-name {stack}`"
        )
    if not found.get("Outputs"):
        raise ConfigError(
            f"the stack {stack} has no outputs: name the one of deployments/aws/stack.yaml or of "
            "deployments/aws/fargate.yaml"
        )
    parameters = {p["ParameterKey"]: p["ParameterValue"] for p in found.get("Parameters", ())}
    outputs = {o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", ())}
    return {"Environment": parameters["Environment"], "Region": region, **outputs}


def fill(path: Path, made: Mapping[str, str]) -> Values:
    """Write a stack's values into a file; the rest of it, comments too, stays as it is.

    Returns:
        the settings that changed.

    Raises:
        ConfigError: the file can't be read or written, or is not written as configs/aws.yaml is.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    before = yaml.safe_load(text)
    rules = WORK_POOL if "variables" in before else PROFILE
    changed = {}
    for name, value_of in rules.items():
        value = value_of(made)
        if value is None or _get(before, name.split(".")) == value:
            continue
        try:
            text = _set(text, name.split("."), value)
        except ValueError:
            raise ConfigError(
                f"{path}: the section of `{name}` can't be found: set it to {value} by hand"
            ) from None
        changed[name] = value
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    return changed


def _get(tree: Any, path: Iterable[str]) -> Any:
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _set(text: str, path: list[str], value: Any) -> str:
    """The text with one value changed, or added at the head of its section.

    Raises:
        ValueError: the text has no such section in block style.
    """
    *section, key = path
    start, end = 0, len(text)
    if section:
        block = re.search(rf"^{section[0]}:\n(?:[ #].*\n|\n)*", text, re.M)
        if block is None:
            raise ValueError(section[0])
        start, end = block.span()
    indent = "  " * len(section)
    written = f"{indent}{key}: {_inline(value)}"
    line = re.compile(rf"^{indent}{key}:.*$", re.M).search(text, start, end)
    if line:
        return f"{text[: line.start()]}{written}{text[line.end() :]}"
    head = text.index("\n", start) + 1
    return f"{text[:head]}{written}\n{text[head:]}"


def _inline(value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...")
