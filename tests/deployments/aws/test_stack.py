"""The stack in the embedded AWS: what it makes there, what not, and a run on its outputs.

Moto says CREATE_COMPLETE whatever it skips. What it skips is listed here, so that nobody takes
it for tested: that is linted alone (`make lint`).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from click.testing import CliRunner

from configs.settings import ROOT, load_settings
from deployments.aws.__main__ import main
from deployments.aws.fill import fill, stack_values
from deployments.embedded.credentials import PROFILE
from reelroute.errors import ConfigError
from tasks.doctor import Setup, diagnose
from tests.deployments.aws.conftest import STACK, Stack
from tests.deployments.aws.test_policies import template
from tests.support import Place

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

#: Resources that moto's CloudFormation passes over.
SKIPPED = {"BucketPolicy", "Budget"}


def test_every_resource_but_those_that_moto_skips_is_there(stack: Stack) -> None:
    resources = template()["Resources"]
    wanted = {name for name, made in resources.items() if made.get("Condition") != "OwnKey"}
    assert set(stack.resources) == wanted - SKIPPED


def test_the_skipped_resources_are_really_not_there(stack: Stack) -> None:
    assert code(stack, "get_bucket_policy") == "NoSuchBucketPolicy"
    budgets = stack.client("budgets").describe_budgets(AccountId="123456789012")
    assert budgets["Budgets"] == []


def code(stack: Stack, operation: str) -> str:
    """The error that reading a setting of the bucket ends with."""
    with pytest.raises(ClientError) as refusal:
        getattr(stack.client("s3"), operation)(Bucket=stack.outputs["BucketName"])
    return str(refusal.value.response["Error"]["Code"])


def test_of_the_bucket_moto_makes_the_encryption(stack: Stack) -> None:
    found = stack.client("s3").get_bucket_encryption(Bucket=stack.outputs["BucketName"])
    (rule,) = found["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_of_the_bucket_moto_skips_versioning_public_access_ownership_and_lifecycle(
    stack: Stack,
) -> None:
    properties = template()["Resources"]["Bucket"]["Properties"]
    assert set(properties) == {
        "BucketName",
        "BucketEncryption",
        "VersioningConfiguration",
        "PublicAccessBlockConfiguration",
        "OwnershipControls",
        "LifecycleConfiguration",
    }
    versioning = stack.client("s3").get_bucket_versioning(Bucket=stack.outputs["BucketName"])
    assert "Status" not in versioning
    assert code(stack, "get_public_access_block") == "NoSuchPublicAccessBlockConfiguration"
    assert code(stack, "get_bucket_lifecycle_configuration") == "NoSuchLifecycleConfiguration"
    assert code(stack, "get_bucket_ownership_controls") == "OwnershipControlsNotFoundError"


@pytest.mark.parametrize(
    ("role", "service"),
    [
        ("CustomizationRole", "bedrock.amazonaws.com"),
        ("BatchRole", "bedrock.amazonaws.com"),
        ("EvaluationRole", "bedrock.amazonaws.com"),
        ("WorkerRole", "ecs-tasks.amazonaws.com"),
    ],
)
def test_roles_are_made_with_their_trust_but_without_managed_policies(
    role: str, service: str, stack: Stack
) -> None:
    iam = stack.client("iam")
    made = iam.get_role(RoleName=stack.resources[role])["Role"]
    (statement,) = made["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": service}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "123456789012"}
    attached = iam.list_attached_role_policies(RoleName=stack.resources[role])
    assert attached["AttachedPolicies"] == []  # the template names some: moto skips them


def test_policies_are_made_with_the_resources_of_the_stack(stack: Stack) -> None:
    iam = stack.client("iam")
    for name in ("WorkerPolicy", "ApplicationPolicy", "DoctorPolicy"):
        arn = stack.outputs[f"{name}Arn"]
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
        assert "!" not in str(found["Document"])
        assert stack.outputs["BucketName"] in str(found["Document"])


def test_the_log_group_keeps_lines_for_a_while(stack: Stack) -> None:
    groups = stack.client("logs").describe_log_groups(logGroupNamePrefix="/reelroute/stack-test")
    assert [group["retentionInDays"] for group in groups["logGroups"]] == [90]


# --- from the stack to a profile ---------------------------------------------------------------


@pytest.fixture
def standard_chain(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded AWS where boto3 looks by itself, as on a machine set up for AWS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", stack.aws.endpoint_url)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(stack.aws.credentials_file))
    monkeypatch.setenv("AWS_PROFILE", PROFILE)


@pytest.mark.usefixtures("standard_chain")
@pytest.mark.parametrize("profile", ["aws", "seed"])
def test_a_profile_is_filled_from_the_stack_and_keeps_its_comments(
    profile: str, stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "production.yaml"
    shutil.copy(ROOT / "configs" / f"{profile}.yaml", path)
    before = path.read_text()
    done = CliRunner().invoke(main, ["fill", str(path), "--stack", stack.name])
    assert done.exit_code == 0, done.output
    assert f"storage.bucket: {stack.outputs['BucketName']}" in done.output
    typed = load_settings(path)
    assert typed.environment == "stack-test"
    assert typed.storage.bucket == stack.outputs["BucketName"]
    assert typed.distill.role_arn == stack.outputs["CustomizationRoleArn"]
    assert typed.evaluate.role_arn == stack.outputs["EvaluationRoleArn"]
    assert "000000000000" not in path.read_text()
    assert path.read_text().splitlines()[:2] == before.splitlines()[:2]
    again = CliRunner().invoke(main, ["fill", str(path), "--stack", stack.name])
    assert again.output == f"{path}: 0 settings changed\n"


@pytest.mark.usefixtures("standard_chain")
def test_a_stack_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no stack 'nobody' in us-east-1: deploy deploy"):
        stack_values("nobody", "us-east-1")


@pytest.mark.usefixtures("standard_chain")
def test_another_stack_is_a_sentence(stack: Stack) -> None:
    topic = '{"Resources": {"T": {"Type": "AWS::SNS::Topic"}}}'
    stack.client("cloudformation").create_stack(StackName="another", TemplateBody=topic)
    with pytest.raises(ConfigError, match=r"the stack another has no outputs: name the one of"):
        stack_values("another", "us-east-1")


@pytest.mark.usefixtures("standard_chain")
def test_what_fargate_needs_is_made_and_filled_in(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "ecs.yaml"
    shutil.copy(ROOT / "deployments" / "work_pools" / "ecs.yaml", path)
    parameters = {"Environment": "stack-test", "VpcId": "vpc-1", "Subnets": "subnet-1,subnet-2"}
    stack.client("cloudformation").create_stack(
        StackName="fargate",
        TemplateBody=STACK.with_name("fargate.yaml").read_text(encoding="utf-8"),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
    )
    fill(path, stack_values("fargate", "us-east-1"))
    fill(path, stack_values(stack.name, "us-east-1"))
    variables = yaml.safe_load(path.read_text())["variables"]
    assert variables["cluster"].endswith(":cluster/reelroute-stack-test")
    assert variables["image"].endswith("/reelroute-stack-test:latest")
    assert variables["task_role_arn"] == stack.outputs["WorkerRoleArn"]
    assert variables["network_configuration"]["subnets"] == ["subnet-1", "subnet-2"]
    assert not any(stub in path.read_text() for stub in ("change-me", "00000000"))


def test_a_key_of_the_stacks_own_is_written_beside_the_bucket(tmp_path: Path) -> None:
    path = tmp_path / "production.yaml"
    shutil.copy(ROOT / "configs" / "aws.yaml", path)
    key = "arn:aws:kms:us-east-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
    fill(path, {"KeyArn": key, "BucketName": "a-bucket"})
    storage = load_settings(path).storage
    assert (storage.bucket, storage.encryption, storage.kms_key_id) == ("a-bucket", "aws:kms", key)


def test_a_file_written_in_another_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("environment: e\nstorage: {bucket: b}\n")
    with pytest.raises(ConfigError, match=r"the section of `storage.bucket` can't"):
        fill(path, {"BucketName": "x"})
    assert path.read_text() == "environment: e\nstorage: {bucket: b}\n"


def test_the_templates_outputs_are_those_that_profiles_take(stack: Stack) -> None:
    assert set(stack.outputs) == set(template(STACK)["Outputs"]) - {
        "KeyArn",
        "KeyPolicyArn",
        "KeyReaderPolicyArn",
    }


# --- the doctor and a run on the outputs -------------------------------------------------------


def on_stack(stack: Stack, place: Place) -> Place:
    """A place in the stack's bucket, with the stack's roles."""
    roles = {
        "label.batch_role_arn": stack.outputs["BatchRoleArn"],
        "distill.role_arn": stack.outputs["CustomizationRoleArn"],
        "evaluate.role_arn": stack.outputs["EvaluationRoleArn"],
    }
    return replace(place, bucket=stack.outputs["BucketName"], overrides=roles)


def test_the_doctor_finds_all_that_moto_skipped_and_nothing_else(
    stack: Stack, place: Place
) -> None:
    findings = list(diagnose(Setup(on_stack(stack, place).settings())))
    trouble: dict[str, Any] = {f.about: f.level for f in findings if f.level != "ok"}
    assert trouble == {
        "bucket public access": "error",
        "bucket versioning": "warning",
        "bucket TLS": "note",  # over plain HTTP it isn't looked at
        "quotas": "note",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_pipeline_runs_on_the_stacks_outputs(stack: Stack, place: Place) -> None:
    from flows.pipeline import pipeline

    there = on_stack(stack, place)
    state = pipeline(config=there.profile(label__size=120), return_state=True)
    assert state.is_completed(), state.message
    keys = list(there.storage().keys(""))
    assert "releases/current.json" in keys
