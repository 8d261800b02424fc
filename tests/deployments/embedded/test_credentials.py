"""Who is let in, and how the others are refused."""

from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from deployments.embedded.aws import EmbeddedAws


def refused(
    aws: EmbeddedAws, service: str, operation: str, config: Config | None = None, **arguments: Any
) -> tuple[str, int]:
    """Error code and HTTP status of a call with keys that nobody knows."""
    client = boto3.client(
        service,
        endpoint_url=aws.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="AKIAUNKNOWN",
        aws_secret_access_key="secret",
        config=config,
    )
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        getattr(client, operation)(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_the_credentials_file_opens_every_service(aws: EmbeddedAws) -> None:
    text = aws.credentials_file.read_text()
    assert text.startswith("[embedded]\naws_access_key_id = EMBEDDED")
    assert "AKIA" not in text
    assert aws.client("sts").get_caller_identity()["Account"] == "123456789012"
    assert [b["Name"] for b in aws.client("s3").list_buckets()["Buckets"]].count(aws.bucket) == 1


def test_only_its_owner_can_read_the_credentials_file(aws: EmbeddedAws) -> None:
    assert aws.credentials_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("service", "operation", "arguments", "code"),
    [
        ("s3", "list_buckets", {}, "InvalidAccessKeyId"),
        ("s3", "put_object", {"Bucket": "b", "Key": "k", "Body": b"x"}, "InvalidAccessKeyId"),
        ("bedrock", "list_custom_models", {}, "UnrecognizedClientException"),
        ("sts", "get_caller_identity", {}, "InvalidClientTokenId"),
    ],
)
def test_unknown_keys_are_refused_in_each_services_own_words(
    aws: EmbeddedAws, service: str, operation: str, arguments: dict[str, Any], code: str
) -> None:
    assert refused(aws, service, operation, **arguments) == (code, 403)
    assert aws.calls()[-1].status == 403


def test_an_unsigned_request_is_refused(aws: EmbeddedAws) -> None:
    unsigned = Config(signature_version=UNSIGNED)
    assert refused(aws, "s3", "list_buckets", unsigned) == ("AccessDenied", 403)
    code = "MissingAuthenticationTokenException"
    assert refused(aws, "bedrock", "list_custom_models", unsigned) == (code, 403)


def test_a_presigned_url_carries_its_signature_along(aws: EmbeddedAws) -> None:
    import urllib.request

    s3 = aws.client("s3")
    s3.put_object(Bucket=aws.bucket, Key="presigned", Body=b"hello")
    url = s3.generate_presigned_url("get_object", {"Bucket": aws.bucket, "Key": "presigned"})
    assert urllib.request.urlopen(url).read() == b"hello"


def test_the_bucket_is_versioned_encrypted_and_closed(aws: EmbeddedAws) -> None:
    s3 = aws.client("s3")
    assert s3.get_bucket_versioning(Bucket=aws.bucket)["Status"] == "Enabled"
    block = s3.get_public_access_block(Bucket=aws.bucket)["PublicAccessBlockConfiguration"]
    assert all(block.values())
    encryption = s3.get_bucket_encryption(Bucket=aws.bucket)["ServerSideEncryptionConfiguration"]
    default = encryption["Rules"][0]["ApplyServerSideEncryptionByDefault"]
    assert default["SSEAlgorithm"] == "AES256"


def test_moto_keeps_its_own_operations_of_bedrock(aws: EmbeddedAws) -> None:
    bedrock = aws.client("bedrock")
    logging = {"textDataDeliveryEnabled": True}
    bedrock.put_model_invocation_logging_configuration(loggingConfig=logging)
    answer = bedrock.get_model_invocation_logging_configuration()
    assert answer["loggingConfig"] == logging


def test_an_operation_that_nobody_has_says_so(aws: EmbeddedAws) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match="does not offer ListGuardrails"):
        aws.client("bedrock").list_guardrails()
