"""The errors that people read: each message names the thing, its value and the next step."""

from __future__ import annotations


class ReelRouteError(Exception):
    """Base of every error that is shown to a user as a sentence, without a stack trace."""


class ConfigError(ReelRouteError):
    """A profile, prompt, plan or price list is wrong."""


class AnswerError(ReelRouteError):
    """A model's answer can't be read as routing weights."""


class ContractError(ReelRouteError):
    """A record or a data set breaks its contract."""


class AwsError(ReelRouteError):
    """A call to AWS failed for good."""


class RetryableAwsError(AwsError):
    """A call to AWS failed in a way that a later try may mend (throttling, time-outs, 5xx)."""


class StageError(ReelRouteError):
    """A stage of the pipeline can't go on."""


class BudgetExceeded(StageError):
    """The next call would pass the run's budget."""


class ReleaseError(ReelRouteError):
    """A release can't be read, verified or moved."""
