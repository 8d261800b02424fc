"""The profile's models: offered here, open to this account, alive, and under which quotas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from botocore.exceptions import ClientError

from reelroute.aws import error_code, speaking
from reelroute.errors import AwsError
from tasks.doctor.account import CREDENTIALS
from tasks.doctor.findings import Check, Finding, Level, Setup
from tasks.lifecycle import (
    Lifecycle,
    configured_models,
    documented_pairs,
    foundation_models,
    lifecycle,
    living_pairs,
    said,
    unknown,
)

ACCESS: Final = "model access"
LIFE: Final = "model lifecycle"
PAIR: Final = "distillation pair"
QUOTAS: Final = "quotas"


def _access(setup: Setup) -> Iterator[Finding]:
    bedrock = setup.client("bedrock")
    page = f"https://{setup.region}.console.aws.amazon.com/bedrock/home?region={setup.region}"
    for model_id, use in configured_models(setup.settings).items():
        try:
            refusals = [
                reason
                for found in foundation_models(bedrock, model_id)
                for reason in _refusals(bedrock, _base(found), setup.region)
            ]
        except AwsError as error:
            yield Finding(
                "error",
                ACCESS,
                f"{use} {model_id}: {error}",
                f"correct `models`; {setup.region} offers: {page}#/model-catalog",
            )
            continue
        if refusals:
            says = f"{use} {model_id}: {'; '.join(refusals)}"
            yield Finding("error", ACCESS, says, f"request access: {page}#/modelaccess")
        else:
            yield Finding("ok", ACCESS, f"{use} {model_id}")


def _refusals(bedrock: Any, model_id: str, region: str) -> Iterator[str]:
    with speaking(f"asking for access to {model_id}"):
        answer = bedrock.get_foundation_model_availability(modelId=model_id)
    if answer["regionAvailability"] != "AVAILABLE":
        yield f"not offered in {region}"
    if answer["authorizationStatus"] != "AUTHORIZED":
        yield "a policy of this account or its organization denies it"
    if answer["entitlementAvailability"] != "AVAILABLE":
        yield "the account has no access to it"
    if answer["agreementAvailability"]["status"] != "AVAILABLE":
        yield f"its agreement is {answer['agreementAvailability']['status'].lower()}"


def _base(model_id: str) -> str:
    """A model without the context length that names a base of customization (…:0:128k)."""
    parts = model_id.split(":")
    return ":".join(parts[:2])


def _lives(setup: Setup) -> Iterator[tuple[str, str, Lifecycle]]:
    """Each configured model that can be looked up: id, use and life."""
    bedrock = setup.client("bedrock")
    for model_id, use in configured_models(setup.settings).items():
        try:
            for found in foundation_models(bedrock, model_id):
                yield model_id, use, lifecycle(bedrock, found)
        except AwsError as error:
            if not unknown(error):
                raise  # what isn't there is told by the check of access


def _life(setup: Setup) -> Iterator[Finding]:
    now = setup.now()
    active, mend = 0, ""
    for model_id, use, life in _lives(setup):
        if life.ended(now) or life.status != "ACTIVE":
            mend = mend or (
                "set `models` to models that live; documented pairs that live in "
                f"{setup.region}: {said(living_pairs(setup.client('bedrock'), now))}"
            )
            level: Level = "error" if life.ended(now) else "warning"
            what = "is past its end of life" if life.ended(now) else f"is {life.status.title()}"
            yield Finding(level, LIFE, f"{use} {model_id} {what} ({life.dates})", mend)
        else:
            active += 1
    if active:
        yield Finding("ok", LIFE, f"{active} models are active")


def _pair(setup: Setup) -> Iterator[Finding]:
    models = setup.settings.models
    if setup.settings.distill.customization != "distillation":
        yield Finding("note", PAIR, "fine-tuning needs none")
        return
    bedrock = setup.client("bedrock")
    teachers = {_base(found) for found in foundation_models(bedrock, models.distillation_teacher)}
    student = _base(models.student.customization_id)
    pair = f"{models.distillation_teacher} → {models.student.customization_id}"
    if any((teacher, student) in set(documented_pairs()) for teacher in teachers):
        yield Finding("ok", PAIR, pair)
        return
    yield Finding(
        "warning",
        PAIR,
        f"{pair} is not among the documented ones (configs/distillation_pairs.yaml)",
        f"those that live in {setup.region}: {said(living_pairs(bedrock, setup.now()))}",
    )


def _quotas(setup: Setup) -> Iterator[Finding]:
    page = (
        f"https://{setup.region}.console.aws.amazon.com/servicequotas/home/services/bedrock/quotas"
    )
    with speaking("reading the quotas of Bedrock"):
        try:
            pages = setup.client("service-quotas").get_paginator("list_service_quotas")
            quotas = [
                quota
                for found in pages.paginate(ServiceCode="bedrock")
                for quota in found["Quotas"]
            ]
        except ClientError as error:
            if error_code(error) != "NoSuchResourceException":
                raise
            quotas = []
    if not quotas:
        yield Finding("note", QUOTAS, "Service Quotas lists none of Bedrock here")
        return
    for model_id, use, life in _lives(setup):
        if model_id == setup.settings.models.student.customization_id:
            continue
        found = {
            unit: quota["Value"]
            for unit in ("requests per minute", "tokens per minute")
            for quota in quotas
            if _is_quota(quota["QuotaName"], unit, life.name, across=life.model_id != model_id)
        }
        shown = ", ".join(f"{value:,.0f} {unit}" for unit, value in found.items())
        about = f"{use} {model_id}"
        if not found:
            yield Finding("note", QUOTAS, f"{about}: none listed under {life.name!r}", page)
        elif not all(found.values()):
            yield Finding("error", QUOTAS, f"{about}: {shown}", f"request an increase: {page}")
        else:
            yield Finding("ok", QUOTAS, f"{about}: {shown}")


def _is_quota(quota: str, unit: str, model: str, *, across: bool) -> bool:
    """Whether a quota is the one of asking a model, by its name: the service has no better key.

    Args:
        quota: as in `Cross-region model inference tokens per minute for Amazon Nova Pro`.
        unit: what it limits.
        model: provider and name.
        across: whether the model is asked through an inference profile.
    """
    kind = "cross-region" if across else "on-demand"
    return quota.lower() == f"{kind} model inference {unit} for {model}".lower()


MODEL_CHECKS: Final = (
    Check(ACCESS, _access, (CREDENTIALS,), "bedrock:GetFoundationModelAvailability"),
    Check(LIFE, _life, (CREDENTIALS,), "bedrock:GetFoundationModel"),
    Check(PAIR, _pair, (CREDENTIALS,), "bedrock:GetFoundationModel"),
    Check(QUOTAS, _quotas, (CREDENTIALS,), "servicequotas:ListServiceQuotas"),
)
