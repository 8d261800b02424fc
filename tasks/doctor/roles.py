"""The roles that Bedrock's jobs work under: whether they are there and trust the right jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Final

from botocore.exceptions import ClientError

from configs.settings import Settings
from reelroute.aws import error_code, speaking
from tasks.doctor.account import CREDENTIALS
from tasks.doctor.findings import Check, Finding, Setup

#: The roles of the profile, by setting: the ARN, and the kind of job that works under it.
ROLES: Final[dict[str, tuple[Callable[[Settings], str | None], str]]] = {
    "label.batch_role_arn": (
        lambda settings: settings.label.batch_role_arn,
        "model-invocation-job",
    ),
    "distill.role_arn": (lambda settings: settings.distill.role_arn, "model-customization-job"),
    "evaluate.role_arn": (lambda settings: settings.evaluate.role_arn, "evaluation-job"),
}
_BEDROCK: Final = "bedrock.amazonaws.com"
_STACK: Final = "deploy deployments/aws/stack.yaml, and set"


def _look(setting: str) -> Callable[[Setup], Iterator[Finding]]:
    arn_of, job = ROLES[setting]

    def look(setup: Setup) -> Iterator[Finding]:
        arn = arn_of(setup.settings)
        if arn is None:
            yield Finding("note", f"`{setting}`", "not set, and not needed")
            return
        about = f"`{setting}`"
        account = arn.split(":")[4]
        if account != setup.account:
            yield Finding(
                "error",
                about,
                f"{arn} belongs to account {account}, the credentials to {setup.account}",
                f"set {about} to a role of account {setup.account}: `python -m deployments.aws "
                "fill PROFILE --stack STACK` writes the stack's",
            )
            return
        document = _trust(setup, arn)
        if document is None:
            says = f"there is no role {arn}"
            yield Finding("error", about, says, f"{_STACK} {about} to its output")
            return
        refused, loose = judge_trust(document, setup.account, setup.region, job)
        console = f"https://console.aws.amazon.com/iam/home#/roles/details/{_name(arn)}"
        if refused:
            yield Finding("error", about, f"{arn} {refused}", f"edit its trust policy: {console}")
        elif loose:
            yield Finding("warning", about, f"{arn} {loose}", f"edit its trust policy: {console}")
        else:
            yield Finding("ok", about, f"{arn} trusts this account's {job}s")

    return look


def _name(arn: str) -> str:
    return arn.rpartition("/")[2]


def _trust(setup: Setup, arn: str) -> dict[str, Any] | None:
    """A role's trust policy, or None where there is no such role."""
    with speaking(f"reading the role {arn}"):
        try:
            role = setup.client("iam").get_role(RoleName=_name(arn))["Role"]
        except ClientError as error:
            if error_code(error) == "NoSuchEntity":
                return None
            raise
    document: dict[str, Any] = role["AssumeRolePolicyDocument"]
    return document


def judge_trust(document: dict[str, Any], account: str, region: str, job: str) -> tuple[str, str]:
    """What is wrong with a trust policy: why it refuses a kind of job, and where it is too loose.

    Args:
        document: the policy.
        account: whose jobs are to be trusted.
        region: where they run.
        job: their kind, as it stands in their ARNs.
    """
    statements = [
        statement
        for statement in _listed(document.get("Statement"))
        if statement.get("Effect") == "Allow"
        and _BEDROCK in _listed(statement.get("Principal", {}).get("Service"))
        and {"sts:AssumeRole", "sts:*", "*"} & set(_listed(statement.get("Action")))
    ]
    if not statements:
        return f"doesn't let {_BEDROCK} assume it", ""
    source = f"arn:aws:bedrock:{region}:{account}:{job}/x"
    refused = ""
    for statement in statements:
        accounts = _condition(statement, "aws:sourceaccount")
        arns = _condition(statement, "aws:sourcearn")
        if accounts and not any(fnmatchcase(account, pattern) for pattern in accounts):
            refused = f"trusts jobs of account {', '.join(accounts)} alone, not of {account}"
        elif arns and not any(_matches(source, pattern) for pattern in arns):
            refused = f"trusts {', '.join(arns)} alone, which is no {job} of {region}"
        else:
            loose = (
                ""
                if accounts or arns
                else (
                    "trusts Bedrock for any account's jobs: limit it by aws:SourceAccount and "
                    "aws:SourceArn"
                )
            )
            return "", loose
    return refused, ""


def _matches(source: str, pattern: str) -> bool:
    parts = pattern.split(":", 2)  # other partitions have other second parts
    return fnmatchcase(source.split(":", 2)[2], parts[2] if len(parts) == 3 else pattern)


def _condition(statement: dict[str, Any], key: str) -> list[str]:
    """The values that a statement asks of a condition's key, whatever the operator."""
    return [
        str(value)
        for asked in statement.get("Condition", {}).values()
        for name, values in asked.items()
        if name.lower() == key
        for value in _listed(values)
    ]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


ROLE_CHECKS: Final = tuple(
    Check(f"`{setting}`", _look(setting), (CREDENTIALS,), "iam:GetRole") for setting in ROLES
)
