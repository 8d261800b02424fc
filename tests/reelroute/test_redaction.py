"""Credentials in what boto3 logs at DEBUG: none, whatever kind they are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from reelroute.aws import AwsAccess
from reelroute.redaction import redacted

TEMPORARY = """<AssumeRoleResponse><AssumeRoleResult><Credentials>
<AccessKeyId>ASIAXXXXXXXXXXXX</AccessKeyId><SecretAccessKey>new/secret+</SecretAccessKey>
<SessionToken>newToken==</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>
</AssumeRoleResponse>"""
SECRETS = ("my/secret+", "myToken==", "new/secret+", "newToken==")


class Sts(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = TEMPORARY.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Sts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_neither_keys_nor_tokens_are_logged_even_where_a_role_is_assumed(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAXXXXXXXXXXXX")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "my/secret+")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "myToken==")
    with caplog.at_level(logging.DEBUG):
        sts = AwsAccess(region="us-east-1", endpoint_url=endpoint).client("sts")
        role = "arn:aws:iam::123456789012:role/reelroute"
        answer = sts.assume_role(RoleArn=role, RoleSessionName="a-session")
    assert answer["Credentials"]["SessionToken"] == "newToken=="
    assert "***" in caplog.text
    assert [secret for secret in SECRETS if secret in caplog.text] == []


@pytest.mark.parametrize(
    "line",
    [
        "x-amz-security-token:SECRET\nhost:x",
        "headers={'X-Amz-Security-Token': b'SECRET', 'Authorization': b'x'}",
        "GET /key?X-Amz-Security-Token=SECRET&X-Amz-Date=1",
        "<SessionToken>SECRET</SessionToken>",
        '{"SecretAccessKey" : "SECRET", "Expiration": 1}',
        "{'SessionToken': 'SECRET'}",
        '{"accessToken":"SECRET"}',
        "aws_secret_access_key = SECRET",
    ],
)
def test_a_secret_is_hidden_by_its_name_and_the_rest_stays(line: str) -> None:
    assert redacted(line) == line.replace("SECRET", "***")


@pytest.mark.parametrize("line", ["host;x-amz-date;x-amz-security-token\nabc", "no secret: here"])
def test_what_names_no_value_stays_as_it_is(line: str) -> None:
    assert redacted(line) == line
