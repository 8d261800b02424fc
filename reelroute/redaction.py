"""Keeps credentials out of what boto3 logs: at DEBUG it writes session tokens as they are.

The canonical request and the headers hold the token of temporary credentials, and the answer of
AssumeRole the whole of them.
"""

from __future__ import annotations

import logging
import re
from typing import Final

_LIBRARIES: Final = ("boto3", "botocore", "s3transfer", "urllib3")
#: A secret's name, as a header, an XML or JSON member or a setting, and what follows it.
_SECRET: Final = re.compile(
    r"""((?:secret_?access_?key|session_?token|security-token|access_?token)
        ["']? \s* [>:=] \s* b?["']?)
        [^"'<>\s,;&}]+""",
    re.IGNORECASE | re.VERBOSE,
)


def redacted(text: str) -> str:
    """The text with stars in the place of secrets."""
    return _SECRET.sub(r"\1***", text)


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        kept = redacted(text)
        if kept != text:
            record.msg, record.args = kept, ()
        return True


_REDACTING: Final = _Redacting()


def keep_secrets_out_of_logs() -> None:
    """Let the loggers of boto3 and what it stands on write no secret; call it again at will."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).addFilter(_REDACTING)
