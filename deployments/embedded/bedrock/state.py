"""What one region of the embedded Bedrock knows; it lives in memory as long as the server."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from threading import Event, RLock
from typing import TYPE_CHECKING

from deployments.embedded.bedrock.objects import ACCOUNT
from deployments.embedded.faults import Faults
from deployments.embedded.models.catalogue import RoutingModels

if TYPE_CHECKING:
    from deployments.embedded.bedrock.custom_models import CustomModel
    from deployments.embedded.bedrock.customization import CustomizationJob
    from deployments.embedded.bedrock.deployments import Deployment
    from deployments.embedded.bedrock.evaluation import EvaluationJob
    from deployments.embedded.bedrock.invocation import InvocationJob
    from deployments.embedded.bedrock.provisioned import Provisioned


def now() -> datetime:
    """The present time, UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Twelve random characters of [0-9a-f], as the service's resource ids have."""
    return uuid.uuid4().hex[:12]


class Bedrock:
    """Jobs, models and deployments of one region, by ARN in the order of their creation.

    Attributes:
        region: the region's name.
        lock: held while anything here is changed.
        closed: set when the server stops; running jobs end without another trace.
        jobs: customization jobs.
        custom_models: what the jobs trained.
        deployments: on-demand deployments of custom models.
        provisioned: Provisioned Throughput of custom models.
        evaluations: evaluation jobs.
        invocations: batch inference jobs.
        tokens: (operation, clientRequestToken) to the ARN that the first call with it made.
        used_model_names: names of custom models, gone for good once a job has taken them.
        tags: by ARN, key to value.
    """

    def __init__(self, region: str, models: RoutingModels, faults: Faults) -> None:
        self.region = region
        self.models = models
        self.faults = faults
        self.lock = RLock()
        self.closed = Event()
        self.jobs: dict[str, CustomizationJob] = {}
        self.custom_models: dict[str, CustomModel] = {}
        self.deployments: dict[str, Deployment] = {}
        self.provisioned: dict[str, Provisioned] = {}
        self.evaluations: dict[str, EvaluationJob] = {}
        self.invocations: dict[str, InvocationJob] = {}
        self.tokens: dict[tuple[str, str], str] = {}
        self.used_model_names: set[str] = set()
        self.tags: dict[str, dict[str, str]] = {}

    def arn(self, resource: str) -> str:
        """The ARN of a resource of this account and region."""
        return f"arn:aws:bedrock:{self.region}:{ACCOUNT}:{resource}"
