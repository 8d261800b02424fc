"""How AWS is reached, and what its errors mean in plain words."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reelroute.errors import AwsError, RetryableAwsError
from reelroute.recorder import record
from reelroute.redaction import keep_secrets_out_of_logs

if TYPE_CHECKING:
    import boto3

#: Error codes that a later try may mend. Source: the Converse and S3 API references.
RETRYABLE_CODES: Final = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "TooManyRequestsException",
        "ModelTimeoutException",
        "InternalServerException",
        "ServiceUnavailableException",
        "ModelNotReadyException",
        "ModelErrorException",
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "SlowDown",
        "RequestTimeout",
        "500",
        "502",
        "503",
        "504",
    }
)

_CREDENTIAL_CODES: Final = frozenset(
    {
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "AuthFailure",
        "InvalidToken",
    }
)
_EXPIRED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})


#: Tries of what boto3 itself does not try again: an answer that breaks off or is damaged.
_WHOLE_TRIES: Final = 4

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """Where AWS is and with whose credentials it is asked.

    Attributes:
        endpoint_url: another address than the service's own (the embedded AWS), or None.
        credentials_file, profile: a named profile of a shared-credentials file; without them,
            the standard AWS chain.
        max_connections: calls in flight together through one client.
        bucket_owner: the account that must own each bucket; S3 refuses the call if another does.
    """

    region: str | None = None
    endpoint_url: str | None = None
    credentials_file: Path | None = None
    profile: str | None = None
    connect_timeout_seconds: float = 10
    read_timeout_seconds: float = 120
    max_attempts: int = 4
    max_connections: int = 32
    bucket_owner: str | None = None

    def session(self) -> boto3.Session:
        """A boto3 session.

        Raises:
            AwsError: the named profile or credentials file doesn't exist.
        """
        import boto3
        import botocore.exceptions
        import botocore.session

        if self.credentials_file and not self.credentials_file.is_file():
            raise AwsError(
                f"the credentials file {self.credentials_file} doesn't exist. For the embedded AWS "
                "start it with `python -m deployments.embedded up`; otherwise correct "
                "`aws.credentials_file` in the profile"
            )
        inner = botocore.session.Session(profile=self.profile)
        if self.credentials_file:
            inner.set_config_variable("credentials_file", str(self.credentials_file))
        try:
            return boto3.Session(botocore_session=inner, region_name=self.region)
        except botocore.exceptions.ProfileNotFound:
            where = self.credentials_file or "the AWS configuration"
            raise AwsError(
                f"no AWS profile {self.profile!r} in {where}: correct `aws.profile` or add it"
            ) from None

    def client(self, service: str) -> Any:
        """A thread-safe client of a service; make one a process and service."""
        from botocore.config import Config

        config = Config(
            connect_timeout=self.connect_timeout_seconds,
            read_timeout=self.read_timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": self.max_attempts},
            max_pool_connections=self.max_connections,
        )
        with speaking(f"setting up the client of {service}"):
            client = self.session().client(  # type: ignore[call-overload]
                service, endpoint_url=self.endpoint_url, config=config
            )
        keep_secrets_out_of_logs()
        _insist_on_json(client)
        if self.bucket_owner:
            _insist_on_owner(client, self.bucket_owner)
        record(client)
        return client


def _insist_on_json(client: Any) -> None:
    """Let a client take a damaged JSON answer for a server error, which boto3 tries again.

    Botocore takes a body that is not JSON for an answer without members: a listing would look
    empty, and a job be made twice. (For S3's XML it does itself what is done here.)
    """

    def look(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
        if response_dict["status_code"] >= 300 or operation_model.has_streaming_output:
            return
        try:
            json.loads(response_dict["body"] or "{}")
        except ValueError:
            problem = {"message": "the service's answer arrived damaged"}
            response_dict |= {"status_code": 500, "body": json.dumps(problem).encode()}

    def tell(response: Any, **_: Any) -> None:
        if response is not None:
            http, parsed = response
            http.status_code = parsed["ResponseMetadata"]["HTTPStatusCode"]

    service = client.meta.service_model
    if service.metadata["protocol"] == "rest-json":
        client.meta.events.register("before-parse", look)
        # Before the service's own handler, which looks at the status.
        client.meta.events.register_first(f"needs-retry.{service.service_id.hyphenize()}", tell)


def _insist_on_owner(client: Any, owner: str) -> None:
    """Let every call of an S3 client name the bucket's owner."""

    def name(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.input_shape and "ExpectedBucketOwner" in model.input_shape.members:
            params.setdefault("ExpectedBucketOwner", owner)

    client.meta.events.register("before-parameter-build.s3", name)


def whole(read: Callable[[], R]) -> R:
    """What `read` gives, tried again where its answer breaks off or is damaged on the way.

    Boto3 tries a request again, but not the reading of its answer.

    Args:
        read: asks and reads; may be called several times.
    """
    for attempt in range(1, _WHOLE_TRIES):
        try:
            return read()
        except _broken_off():
            time.sleep(_backoff(attempt))
    return read()


def _broken_off() -> tuple[type[Exception], ...]:
    import botocore.exceptions as boto
    from botocore.parsers import ResponseParserError

    return (
        boto.IncompleteReadError,
        boto.ResponseStreamingError,
        boto.FlexibleChecksumError,
        ResponseParserError,
    )


def _backoff(attempt: int) -> float:
    """Seconds before the next try: about 0.1, doubled at each."""
    return 0.1 * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)


@contextmanager
def speaking(doing: str) -> Iterator[None]:
    """Turn boto's errors inside the block into sentences.

    Args:
        doing: what was being done, as in `reading s3://bucket/key`.

    Raises:
        RetryableAwsError: throttling, time-outs, connection and server errors.
        AwsError: everything else that boto raises.
    """
    import botocore.exceptions
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        ResponseParserError,
    ) as error:
        raise explain(error, doing) from error


def error_code(error: BaseException | None) -> str:
    """The service's error code, or the empty string."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def explain(error: Exception, doing: str) -> AwsError:
    """An error of boto as ReelRoute's own: what failed, why, and what to do."""
    import botocore.exceptions as boto

    code = error_code(error)
    if isinstance(error, boto.ClientError):
        message = error.response.get("Error", {}).get("Message", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _CREDENTIAL_CODES:
            return AwsError(
                f"{doing}: AWS refused the credentials ({code}). Check the access key in use "
                "(`aws.profile` and `aws.credentials_file` of the profile, or the environment)"
            )
        if code in _EXPIRED_CODES:
            return AwsError(f"{doing}: the AWS credentials have expired. Renew them and run again")
        if code == "NoSuchBucket":
            return AwsError(
                f"{doing}: the bucket doesn't exist. Create it or correct `storage.bucket`"
            )
        if code in ("AccessDeniedException", "AccessDenied", "403"):
            return AwsError(
                f"{doing}: access denied ({message or code}). Grant the role in use this action, "
                "or, for a model, request access to it in the Bedrock console"
            )
        if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
            return AwsError(f"{doing}: it lies in another region. Correct `aws.region`")
        if code in RETRYABLE_CODES or status >= 500:
            return RetryableAwsError(f"{doing}: {code}: {message}. It may pass: run again")
        return AwsError(f"{doing}: {code}: {message}")
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return AwsError(
            f"{doing}: no AWS credentials found. Set AWS_PROFILE, or `aws.profile` in the profile"
        )
    if isinstance(error, boto.NoRegionError):
        return AwsError(f"{doing}: no region. Set `aws.region` in the profile")
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        return RetryableAwsError(
            f"{doing}: {error}. Is the endpoint up and `aws.endpoint_url` right? The embedded AWS "
            "is started by `python -m deployments.embedded up`"
        )
    if isinstance(error, _broken_off()):
        return RetryableAwsError(f"{doing}: the answer broke off ({error}). Run again")
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError):
        return RetryableAwsError(f"{doing}: the connection failed ({error}). Run again")
    return AwsError(f"{doing}: {error}")
