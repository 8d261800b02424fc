"""What an account needs before the pipeline runs in it: the bucket and the jobs' role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from deployments.embedded.credentials import PROFILE, REGION
from reelroute.aws import AwsAccess, speaking

#: The role that the local profile's jobs work under.
ROLE: Final = "reelroute-bedrock"


def client(service: str, endpoint_url: str, credentials_file: Path) -> Any:
    """A boto3 client of the embedded AWS, without retries."""
    access = AwsAccess(REGION, endpoint_url, credentials_file, PROFILE, max_attempts=1)
    return access.client(service)


def make_bucket(s3: Any, bucket: str) -> None:
    """Create the bucket unless it is there: versioned, encrypted, closed to the public.

    Raises:
        AwsError: the name is no bucket's name, or the credentials are refused.
    """
    with speaking(f"making the bucket {bucket}"):
        there = {entry["Name"] for entry in s3.list_buckets()["Buckets"]}
        if bucket not in there:
            _create(s3, bucket)


def make_role(iam: Any, account: str) -> None:
    """Create the role of Bedrock's jobs unless it is there.

    Raises:
        AwsError: the credentials are refused.
    """
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "bedrock.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": account}},
    }
    with speaking(f"making the role {ROLE}"):
        there = {role["RoleName"] for role in iam.list_roles()["Roles"]}
        if ROLE not in there:
            document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
            iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=document)


def _create(s3: Any, bucket: str) -> None:
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    encryption = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(
        Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [encryption]}
    )
