"""The Bedrock operations that are answered here; moto answers the others that it has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from deployments.embedded.bedrock import (
    custom_models,
    customization,
    deployments,
    evaluation,
    foundation_models,
    invocation,
    provisioned,
    tags,
)
from deployments.embedded.bedrock.converse import converse
from deployments.embedded.bedrock.errors import ServiceError
from deployments.embedded.bedrock.reported import as_reported
from deployments.embedded.bedrock.rest import Asked, parameters, to_json
from deployments.embedded.bedrock.state import Bedrock
from deployments.embedded.bedrock.validation import check
from deployments.embedded.calls import Call
from deployments.embedded.faults import Faults
from deployments.embedded.models.catalogue import RoutingModels

_log = logging.getLogger(__name__)

Handler = Callable[[Bedrock, dict[str, Any], Call], dict[str, Any]]

HANDLERS: Final[dict[str, Handler]] = {
    "Converse": converse,
    "CreateModelCustomizationJob": customization.create_model_customization_job,
    "GetModelCustomizationJob": customization.get_model_customization_job,
    "ListModelCustomizationJobs": customization.list_model_customization_jobs,
    "StopModelCustomizationJob": customization.stop_model_customization_job,
    "GetCustomModel": custom_models.get_custom_model,
    "ListCustomModels": custom_models.list_custom_models,
    "DeleteCustomModel": custom_models.delete_custom_model,
    "CreateCustomModelDeployment": deployments.create_custom_model_deployment,
    "GetCustomModelDeployment": deployments.get_custom_model_deployment,
    "ListCustomModelDeployments": deployments.list_custom_model_deployments,
    "UpdateCustomModelDeployment": deployments.update_custom_model_deployment,
    "DeleteCustomModelDeployment": deployments.delete_custom_model_deployment,
    "GetFoundationModel": foundation_models.get_foundation_model,
    "GetFoundationModelAvailability": foundation_models.get_foundation_model_availability,
    "GetInferenceProfile": foundation_models.get_inference_profile,
    "ListFoundationModels": foundation_models.list_foundation_models,
    "CreateProvisionedModelThroughput": provisioned.create_provisioned_model_throughput,
    "GetProvisionedModelThroughput": provisioned.get_provisioned_model_throughput,
    "ListProvisionedModelThroughputs": provisioned.list_provisioned_model_throughputs,
    "UpdateProvisionedModelThroughput": provisioned.update_provisioned_model_throughput,
    "DeleteProvisionedModelThroughput": provisioned.delete_provisioned_model_throughput,
    "CreateEvaluationJob": evaluation.create_evaluation_job,
    "GetEvaluationJob": evaluation.get_evaluation_job,
    "ListEvaluationJobs": evaluation.list_evaluation_jobs,
    "StopEvaluationJob": evaluation.stop_evaluation_job,
    "BatchDeleteEvaluationJob": evaluation.batch_delete_evaluation_job,
    "CreateModelInvocationJob": invocation.create_model_invocation_job,
    "GetModelInvocationJob": invocation.get_model_invocation_job,
    "ListModelInvocationJobs": invocation.list_model_invocation_jobs,
    "StopModelInvocationJob": invocation.stop_model_invocation_job,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListTagsForResource": tags.list_tags_for_resource,
}
#: Operations that moto has and that need nothing from us.
LEFT_TO_MOTO: Final = frozenset(
    {
        "DeleteModelInvocationLoggingConfiguration",
        "GetModelInvocationLoggingConfiguration",
        "PutModelInvocationLoggingConfiguration",
    }
)
#: Members that an operation checks itself, because its own answer says more: Converse tells a
#: custom model's ARN from a model that isn't there.
_UNCHECKED: Final = {"Converse": frozenset({"modelId"})}


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the caller.

    Attributes:
        status: the HTTP status.
        body: JSON.
        error: the error's code, or empty.
    """

    status: int
    body: bytes
    error: str = ""


class BedrockApi:
    """All regions of the embedded Bedrock."""

    def __init__(self, models: RoutingModels, faults: Faults) -> None:
        self._models = models
        self._faults = faults
        self._regions: dict[str, Bedrock] = {}
        self._lock = Lock()

    def region(self, name: str) -> Bedrock:
        """What a region knows; a region comes into being when it is first asked."""
        with self._lock:
            if name not in self._regions:
                self._regions[name] = Bedrock(name, self._models, self._faults)
            return self._regions[name]

    def close(self) -> None:
        """Let running jobs end without another trace."""
        with self._lock:
            for region in self._regions.values():
                region.closed.set()

    def reply(self, asked: Asked, region: str, query_string: str, body: bytes, call: Call) -> Reply:
        """Answer one request; the call's record learns what it was about."""
        operation = asked.operation
        try:
            handler = HANDLERS.get(operation.name)
            if handler is None:
                raise ServiceError(
                    "UnknownOperationException",
                    f"The embedded AWS does not offer {operation.name}.",
                )
            params = parameters(asked, query_string, body)
            call.hash_text(body)
            check(operation, params, _UNCHECKED.get(operation.name, frozenset()))
            answer = handler(self.region(region), params, call)
            answer = as_reported(self._faults, operation, answer, call)
        except ServiceError as error:
            return error_reply(error)
        except Exception as error:  # the caller hears of our bugs as of the service's
            _log.exception("%s failed", operation.name)
            problem = f"Internal error: {type(error).__name__}: {error}"
            return error_reply(ServiceError("InternalServerException", problem))
        return Reply(int(operation.http["responseCode"]), to_json(answer))


def error_reply(error: ServiceError) -> Reply:
    """An error as Bedrock writes it; its code goes into a header."""
    return Reply(error.status, to_json({"message": error.message}), error.code)
