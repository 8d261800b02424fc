"""The doctor: what is broken is named, with what mends it, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from botocore.stub import Stubber
from click.testing import CliRunner

from configs.settings import Settings
from deployments.embedded.faults import DENIED_MODELS, EXPIRED_CREDENTIALS, WRONG_CREDENTIALS
from deployments.embedded.models.catalogue import LEGACY_TEACHER, RETIRED_TEACHER
from reelroute.cli import main
from tasks.doctor import CHECKS, Finding, Setup, diagnose
from tasks.doctor.bucket import refuses_plain_http
from tasks.doctor.models import _is_quota
from tasks.doctor.roles import judge_trust
from tests.support import CallsSince, Place

ACCOUNT, REGION, JOB = "123456789012", "us-east-1", "model-customization-job"
TEACHER = "embedded.teacher-v1:0"


def trust(
    service: str = "bedrock.amazonaws.com",
    account: str | None = ACCOUNT,
    source: str | None = None,
    effect: str = "Allow",
) -> dict[str, Any]:
    condition: dict[str, Any] = {}
    if account:
        condition["StringEquals"] = {"aws:SourceAccount": account}
    if source:
        condition["ArnLike"] = {"aws:SourceArn": source}
    statement = {
        "Effect": effect,
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
        "Condition": condition,
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def role(place: Place, document: dict[str, Any]) -> dict[str, str]:
    """The override that names a new role with this trust policy."""
    name = f"doctor-{uuid4().hex[:8]}"
    made = place.aws.client("iam").create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps(document)
    )
    return {"distill.role_arn": made["Role"]["Arn"]}


def s3(operation: str, **arguments: Any) -> Callable[[Place], dict[str, Any]]:
    def breaks(place: Place) -> dict[str, Any]:
        getattr(place.aws.client("s3"), operation)(Bucket=place.bucket, **arguments)
        return {}

    return breaks


def fault(kind: str) -> Callable[[Place], dict[str, Any]]:
    def breaks(place: Place) -> dict[str, Any]:
        place.aws.faults.set(kind)
        return {}

    return breaks


@dataclass(frozen=True)
class Broken:
    """A set-up with one thing wrong.

    Attributes:
        breaks: does it; gives settings.
        finds: level, about, and parts of what is said and of what mends it, of every finding
            that is neither ok nor a note.
        off: how much this machine's clock is ahead.
    """

    name: str
    breaks: Callable[[Place], dict[str, Any]]
    finds: list[tuple[str, str, str, str]]
    off: timedelta = field(default_factory=timedelta)


def settings(**named: Any) -> Callable[[Place], dict[str, Any]]:
    return lambda place: {name.replace("__", "."): value for name, value in named.items()}


LIVES = "embedded.teacher-v1:0 → embedded.light-student-v1:0"
BROKEN = [
    Broken(
        "a region that isn't there",
        settings(aws__region="us-esat-1"),
        [("error", "region", "no Bedrock in 'us-esat-1'", "us-east-1")],
    ),
    Broken(
        "a region other than the bucket's",
        settings(aws__region="eu-west-1"),
        [("error", "bucket", "lies in us-east-1, the profile works in eu-west-1", "`aws.region")],
    ),
    Broken(
        "no bucket",
        settings(storage__bucket="doctor-nowhere"),
        [("error", "bucket", "s3://doctor-nowhere: the bucket doesn't exist. Create it", "")],
    ),
    Broken(
        "an unencrypted bucket",
        s3("delete_bucket_encryption"),
        [("error", "bucket encryption", "doesn't encrypt", "aws s3api put-bucket-encryption")],
    ),
    Broken(
        "a bucket with another encryption than the profile's",
        settings(storage__encryption="aws:kms"),
        [("warning", "bucket encryption", "AES256, the profile with aws:kms", "`storage.encr")],
    ),
    Broken(
        "a bucket that can be public",
        s3("delete_public_access_block"),
        [
            (
                "error",
                "bucket public access",
                "can be made public: BlockPublicAcls",
                "aws s3api put-public-access-block",
            )
        ],
    ),
    Broken(
        "a bucket without versions",
        s3("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"}),
        [("warning", "bucket versioning", "no earlier versions", "aws s3api put-bucket-vers")],
    ),
    Broken(
        "a role that isn't there",
        settings(distill__role_arn=f"arn:aws:iam::{ACCOUNT}:role/nobody"),
        [("error", "`distill.role_arn`", "no role", "deploy deployments/aws/stack.yaml")],
    ),
    Broken(
        "a batch role that isn't there",
        settings(label__batch_role_arn=f"arn:aws:iam::{ACCOUNT}:role/nobody"),
        [("error", "`label.batch_role_arn`", "no role", "deploy deployments/aws/stack.yaml")],
    ),
    Broken(
        "a role of another account",
        settings(evaluate__role_arn="arn:aws:iam::000000000000:role/change-me"),
        [("error", "`evaluate.role_arn`", "account 000000000000, the credentials to 123", "set")],
    ),
    Broken(
        "a role that trusts another service",
        lambda place: role(place, trust(service="lambda.amazonaws.com")),
        [("error", "`distill.role_arn`", "doesn't let bedrock.amazonaws.com", "iam/home#/roles")],
    ),
    Broken(
        "a role that trusts another account's jobs",
        lambda place: role(place, trust(account="999999999999")),
        [("error", "`distill.role_arn`", "of account 999999999999 alone", "iam/home#/roles")],
    ),
    Broken(
        "a role that trusts jobs of another kind",
        lambda place: role(
            place, trust(source=f"arn:aws:bedrock:{REGION}:{ACCOUNT}:evaluation-job/*")
        ),
        [("error", "`distill.role_arn`", "no model-customization-job of us-east-1", "iam/home")],
    ),
    Broken(
        "a role that trusts anybody's jobs",
        lambda place: role(place, trust(account=None)),
        [("warning", "`distill.role_arn`", "any account's jobs", "iam/home#/roles")],
    ),
    Broken(
        "models that the account is denied",
        fault(DENIED_MODELS),
        [
            ("error", "model access", f"{use}: a policy of this account", "#/modelaccess")
            for use in (TEACHER, "light-student-v1:0", "large-baseline-v1:0", "rubric-judge-v1:0")
        ],
    ),
    Broken(
        "a model that nobody offers",
        settings(models__judge__id="embedded.nobody-v1:0", models__judge__price=TEACHER),
        [("error", "model access", "judge embedded.nobody-v1:0: ", "#/model-catalog")],
    ),
    Broken(
        "a model past its end of life",
        settings(models__teacher__id=RETIRED_TEACHER, models__teacher__price=TEACHER),
        [("error", "model lifecycle", f"{RETIRED_TEACHER} is past its end of life (Leg", LIVES)],
    ),
    Broken(
        "a model that the service has forgotten, past its documented end",
        settings(models__teacher__id="us.amazon.nova-premier-v1:0"),
        [
            ("error", "model access", "teacher us.amazon.nova-premier-v1:0", ""),
            ("error", "model lifecycle", "end of life (end of life 2026-09-14)", LIVES),
        ],
    ),
    Broken(
        "a legacy model behind an inference profile",
        settings(models__teacher__id=f"us.{LEGACY_TEACHER}", models__teacher__price=TEACHER),
        [("warning", "model lifecycle", f"us.{LEGACY_TEACHER} is Legacy (Legacy since 20", LIVES)],
    ),
    Broken(
        "a pair that nobody documents",
        settings(models__distillation_teacher="embedded.large-baseline-v1:0"),
        [("warning", "distillation pair", "not among the documented", LIVES)],
    ),
    Broken(
        "credentials that have expired",
        fault(EXPIRED_CREDENTIALS),
        [("error", "credentials", "have expired. Renew them", "")],
    ),
    Broken(
        "credentials that the account doesn't know",
        fault(WRONG_CREDENTIALS),
        [("error", "credentials", "refused the credentials", "")],
    ),
    Broken(
        "no credentials",
        settings(aws__credentials_file=None, aws__profile=None),
        [("error", "credentials", "no AWS credentials found. Set AWS_PROFILE", "")],
    ),
    Broken(
        "a credentials file that isn't there",
        settings(aws__credentials_file="/nowhere/credentials"),
        [("error", about, "/nowhere/credentials doesn't exist", "") for about in ("credentials",)],
    ),
    Broken(
        "an endpoint where nobody answers",
        settings(aws__endpoint_url="http://127.0.0.1:9"),
        [("error", "credentials", "Could not connect to the endpoint", "")],
    ),
    Broken(
        "a clock that is twenty minutes ahead",
        settings(),
        [("error", "clock", "s ahead of AWS's", "timedatectl set-ntp true")],
        off=timedelta(minutes=20),
    ),
    Broken(
        "a clock that is two minutes behind",
        settings(),
        [("warning", "clock", "s behind AWS's", "timedatectl set-ntp true")],
        off=timedelta(minutes=-2),
    ),
    Broken(
        "a model without a price",
        settings(models__judge__price="nobody-v1"),
        [("error", "prices", "no price for 'nobody-v1'", "")],
    ),
]


def examine(typed: Settings, off: timedelta = timedelta()) -> list[Finding]:
    return list(diagnose(Setup(typed, lambda: datetime.now(UTC) + off)))


def trouble(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level in ("warning", "error")]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_what_is_broken_is_named_with_what_mends_it(broken: Broken, place: Place) -> None:
    typed = place.settings(**broken.breaks(place))
    findings = examine(typed, broken.off)
    assert {finding.about for finding in findings} >= {check.name for check in CHECKS}
    found = trouble(findings)
    assert [(finding.level, finding.about) for finding in found] == [
        (level, about) for level, about, _, _ in broken.finds
    ]
    for finding, (_, _, says, mend) in zip(found, broken.finds, strict=True):
        assert says in finding.says
        assert mend in finding.mend


def test_a_set_up_in_order_has_no_trouble_and_is_not_changed(
    place: Place, calls: CallsSince
) -> None:
    assert trouble(examine(place.settings())) == []
    asked = {call.operation for call in calls.all()}
    assert {"GetCallerIdentity", "ListObjectsV2", "GetRole", "GetFoundationModel"} <= asked
    assert [name for name in asked if not name.startswith(("Get", "GET ", "List"))] == []


def test_a_broken_set_up_is_not_changed_either(place: Place, calls: CallsSince) -> None:
    typed = place.settings(models__teacher__id="us.amazon.nova-premier-v1:0")
    s3("delete_bucket_encryption")(place)
    before = CallsSince(place.aws)
    examine(typed)
    asked = {call.operation for call in before.all()}
    assert [name for name in asked if not name.startswith(("Get", "GET ", "List"))] == []


def test_what_needs_a_failed_check_says_so(place: Place) -> None:
    findings = examine(place.settings(storage__bucket="doctor-nowhere"))
    notes = {finding.about: finding.says for finding in findings if finding.level == "note"}
    assert notes["bucket encryption"] == "not looked at, because of: bucket"
    assert any(f.about == "model access" and f.level == "ok" for f in findings)


def fresh_client(place: Place, service: str) -> Any:
    """A client of this test's own: the others are shared."""
    import boto3

    return boto3.client(
        service,
        region_name=REGION,
        endpoint_url=place.aws.endpoint_url,
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )


def with_client(place: Place, service: str, client: Any) -> Setup:
    class Other(Setup):
        def client(self, name: str) -> Any:
            return client if name == service else super().client(name)

    return Other(place.settings())


def test_what_the_credentials_may_not_look_at_is_a_warning(place: Place) -> None:
    iam = fresh_client(place, "iam")
    with Stubber(iam) as stubber:
        stubber.add_client_error("get_role", "AccessDenied", "not yours", 403)
        stubber.add_client_error("get_role", "AccessDenied", "not yours", 403)
        found = trouble(list(diagnose(with_client(place, "iam", iam))))
    assert [(f.level, f.about) for f in found] == [
        ("warning", "`distill.role_arn`"),
        ("warning", "`evaluate.role_arn`"),
    ]
    assert "grant iam:GetRole" in found[0].mend


def test_a_check_that_breaks_is_a_finding_and_hides_no_other(place: Place) -> None:
    found = list(diagnose(with_client(place, "iam", object())))
    (first, second) = trouble(found)
    assert (first.level, first.about, second.about) == (
        "error",
        "`distill.role_arn`",
        "`evaluate.role_arn`",
    )
    assert "AttributeError" in first.says
    assert any(finding.about == "model lifecycle" for finding in found)


def quota(name: str, value: float) -> dict[str, Any]:
    return {"QuotaName": name, "Value": value}


@pytest.mark.parametrize(("tokens", "level"), [(9000.0, "ok"), (0.0, "error")])
def test_a_models_quotas_are_read_and_none_may_be_zero(
    tokens: float, level: str, place: Place
) -> None:
    client = fresh_client(place, "service-quotas")
    with Stubber(client) as stubber:
        quotas = [
            quota("On-demand model inference requests per minute for embedded Teacher", 600.0),
            quota("On-demand model inference tokens per minute for embedded Teacher", tokens),
            quota("Cross-region model inference tokens per minute for embedded Teacher", 1.0),
        ]
        stubber.add_response("list_service_quotas", {"Quotas": quotas}, {"ServiceCode": "bedrock"})
        found = list(diagnose(with_client(place, "service-quotas", client)))
    (teacher,) = [f for f in found if f.about == "quotas" and TEACHER in f.says]
    assert teacher.level == level
    assert f"600 requests per minute, {tokens:,.0f} tokens per minute" in teacher.says
    others = [f for f in found if f.about == "quotas" and TEACHER not in f.says]
    assert {finding.level for finding in others} == {"note"}


def test_quotas_are_told_apart_by_how_a_model_is_asked() -> None:
    name = "Cross-region model inference requests per minute for Amazon Nova Pro"
    assert _is_quota(name, "requests per minute", "Amazon Nova Pro", across=True)
    assert not _is_quota(name, "requests per minute", "Amazon Nova Pro", across=False)
    assert not _is_quota(name, "tokens per minute", "Amazon Nova Pro", across=True)
    assert not _is_quota(name, "requests per minute", "Amazon Nova", across=True)


@pytest.mark.parametrize(
    ("document", "refused", "loose"),
    [
        (trust(source=f"arn:aws:bedrock:{REGION}:{ACCOUNT}:{JOB}/*"), False, False),
        (trust(account=None, source=f"arn:aws:bedrock:*:{ACCOUNT}:*"), False, False),
        (trust(source=f"arn:aws:bedrock:eu-west-1:{ACCOUNT}:{JOB}/*"), True, False),
        (trust(effect="Deny"), True, False),
        ({"Statement": []}, True, False),
        (
            {"Statement": trust(account="999999999999")["Statement"] + trust()["Statement"]},
            False,
            False,
        ),
    ],
)
def test_trust_policies_are_judged(document: dict[str, Any], refused: bool, loose: bool) -> None:
    said = judge_trust(document, ACCOUNT, REGION, JOB)
    assert (bool(said[0]), bool(said[1])) == (refused, loose)


@pytest.mark.parametrize(
    ("statement", "refuses"),
    [
        ({}, True),
        ({"Effect": "Allow"}, False),
        ({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}, False),
        ({"Condition": {}}, False),
        ({"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}, False),
    ],
)
def test_a_policy_that_refuses_plain_http_is_recognised(
    statement: dict[str, Any], refuses: bool
) -> None:
    whole = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    assert refuses_plain_http({"Statement": [{**whole, **statement}]}) is refuses


# --- the command -------------------------------------------------------------------------------


def test_the_command_ends_well_where_nothing_is_broken(place: Place) -> None:
    done = CliRunner().invoke(main, ["doctor", "--config", place.profile()])
    assert done.exit_code == 0, done.output
    assert f"ok       bucket                 s3://{place.bucket} in us-east-1" in done.output
    assert done.output.splitlines()[-1].endswith(" 0 warnings, 0 errors")


def test_the_command_fails_with_an_error_and_says_what_mends_it(place: Place) -> None:
    s3("delete_bucket_encryption")(place)
    done = CliRunner().invoke(main, ["doctor", "--config", place.profile()])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "ERROR    bucket encryption" in done.output
    assert "→ aws s3api put-bucket-encryption --bucket" in done.output


def test_a_warning_alone_is_no_failure(place: Place) -> None:
    config = place.profile(storage__encryption="aws:kms")
    done = CliRunner().invoke(main, ["doctor", "--config", config])
    assert done.exit_code == 0
    assert done.output.splitlines()[-1].endswith(" 1 warnings, 0 errors")


def test_the_findings_as_json_are_one_array(place: Place) -> None:
    done = CliRunner().invoke(main, ["doctor", "--json", "--config", place.profile()])
    found = json.loads(done.output)
    assert {finding["level"] for finding in found} == {"ok", "note"}
    assert set(found[0]) == {"level", "about", "says", "mend"}


def test_a_wrong_profile_is_a_sentence(place: Place) -> None:
    done = CliRunner().invoke(main, ["doctor", "--config", "configs/nowhere.yaml"])
    assert done.exit_code == 1
    assert "configs/nowhere.yaml doesn't exist" in done.output
