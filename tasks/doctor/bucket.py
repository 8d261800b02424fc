"""The bucket and its settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from botocore.exceptions import ClientError

from reelroute.aws import error_code, speaking
from tasks.doctor.account import CREDENTIALS
from tasks.doctor.findings import Check, Finding, Setup
from tasks.storage import Storage

BUCKET: Final = "bucket"
ENCRYPTION: Final = "bucket encryption"
PUBLIC_ACCESS: Final = "bucket public access"
VERSIONING: Final = "bucket versioning"
TLS: Final = "bucket TLS"

_BLOCKS: Final = (
    "BlockPublicAcls",
    "BlockPublicPolicy",
    "IgnorePublicAcls",
    "RestrictPublicBuckets",
)


def _bucket(setup: Setup) -> Iterator[Finding]:
    s3 = setup.client("s3")
    Storage(setup.settings, s3).check()
    with speaking(f"asking where s3://{setup.bucket} lies"):
        where = s3.get_bucket_location(Bucket=setup.bucket)["LocationConstraint"]
    region = {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(where, where)
    if region == setup.region:
        yield Finding("ok", BUCKET, f"s3://{setup.bucket} in {region}")
        return
    yield Finding(
        "error",
        BUCKET,
        f"s3://{setup.bucket} lies in {region}, the profile works in {setup.region}; Bedrock reads "
        "buckets of its own region alone",
        f"set `aws.region: {region}`, or `storage.bucket` to a bucket of {setup.region}",
    )


def _ask(setup: Setup, operation: str, key: str, absent: str) -> Any:
    """A setting of the bucket; None where it has none."""
    with speaking(f"reading s3://{setup.bucket}'s settings ({operation})"):
        try:
            return getattr(setup.client("s3"), operation)(Bucket=setup.bucket).get(key)
        except ClientError as error:
            if error_code(error) == absent:
                return None
            raise


def _encryption(setup: Setup) -> Iterator[Finding]:
    found = _ask(
        setup,
        "get_bucket_encryption",
        "ServerSideEncryptionConfiguration",
        "ServerSideEncryptionConfigurationNotFoundError",
    )
    rules = (
        [rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in (found or {})["Rules"]]
        if found
        else []
    )
    algorithm = next((rule["SSEAlgorithm"] for rule in rules if "SSEAlgorithm" in rule), None)
    wanted = setup.settings.storage.encryption
    if algorithm is None:
        yield Finding(
            "error",
            ENCRYPTION,
            f"s3://{setup.bucket} doesn't encrypt what Bedrock's jobs write into it",
            _s3api(
                setup,
                "put-bucket-encryption",
                "server-side-encryption-configuration",
                {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": wanted}}]},
            ),
        )
    elif algorithm != wanted:
        yield Finding(
            "warning",
            ENCRYPTION,
            f"the bucket encrypts with {algorithm}, the profile with {wanted}: what Bedrock's jobs "
            "write is encrypted otherwise than what the pipeline writes",
            f"set `storage.encryption: {algorithm}`",
        )
    else:
        yield Finding("ok", ENCRYPTION, algorithm)


def _public_access(setup: Setup) -> Iterator[Finding]:
    found = _ask(
        setup,
        "get_public_access_block",
        "PublicAccessBlockConfiguration",
        "NoSuchPublicAccessBlockConfiguration",
    )
    open_ = [name for name in _BLOCKS if not (found or {}).get(name)]
    if not open_:
        yield Finding("ok", PUBLIC_ACCESS, "blocked in all four ways")
        return
    yield Finding(
        "error",
        PUBLIC_ACCESS,
        f"s3://{setup.bucket} can be made public: {', '.join(open_)} not set",
        _s3api(
            setup,
            "put-public-access-block",
            "public-access-block-configuration",
            dict.fromkeys(_BLOCKS, True),
        ),
    )


def _versioning(setup: Setup) -> Iterator[Finding]:
    if _ask(setup, "get_bucket_versioning", "Status", "") == "Enabled":
        yield Finding("ok", VERSIONING, "enabled")
        return
    yield Finding(
        "warning",
        VERSIONING,
        f"s3://{setup.bucket} keeps no earlier versions: what is deleted or overwritten is gone",
        _s3api(setup, "put-bucket-versioning", "versioning-configuration", {"Status": "Enabled"}),
    )


def _tls(setup: Setup) -> Iterator[Finding]:
    endpoint = setup.settings.aws.endpoint_url or ""
    if endpoint.startswith("http://"):
        yield Finding("note", TLS, f"{endpoint} is plain HTTP, as the embedded AWS is")
        return
    policy = _ask(setup, "get_bucket_policy", "Policy", "NoSuchBucketPolicy")
    if policy and refuses_plain_http(json.loads(policy)):
        yield Finding("ok", TLS, "plain HTTP is refused")
        return
    yield Finding(
        "warning",
        TLS,
        f"s3://{setup.bucket} answers over plain HTTP too",
        "add the policy TlsOnly of deployments/aws/stack.yaml to the bucket",
    )


def refuses_plain_http(policy: dict[str, Any]) -> bool:
    """Whether a bucket policy denies everything that doesn't come over TLS."""
    for statement in policy.get("Statement", ()):
        condition = statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport")
        everybody = statement.get("Principal") in ("*", {"AWS": "*"})
        if statement.get("Effect") == "Deny" and everybody and str(condition).lower() == "false":
            return True
    return False


def _s3api(setup: Setup, command: str, option: str, value: dict[str, Any]) -> str:
    return f"aws s3api {command} --bucket {setup.bucket} --{option} '{json.dumps(value)}'"


def _check(name: str, look: Callable[[Setup], Iterator[Finding]], action: str) -> Check:
    return Check(name, look, (CREDENTIALS, BUCKET), action)


BUCKET_CHECKS: Final = (
    Check(BUCKET, _bucket, (CREDENTIALS,)),
    _check(ENCRYPTION, _encryption, "s3:GetEncryptionConfiguration"),
    _check(PUBLIC_ACCESS, _public_access, "s3:GetBucketPublicAccessBlock"),
    _check(VERSIONING, _versioning, "s3:GetBucketVersioning"),
    _check(TLS, _tls, "s3:GetBucketPolicy"),
)
