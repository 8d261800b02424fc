"""The upload stage: the training file in S3."""

from __future__ import annotations

from flows.stage import stage_flow
from tasks.base import StageContext, StageResult
from tasks.upload import build_training_file, upload_training_file


@stage_flow("upload", reads=("validate",), settings=("storage",), prompts=("router",))
def upload(stage: StageContext) -> StageResult:
    """Write the training rows in Bedrock's format to S3, once for each content."""
    data = build_training_file(stage)
    file, known = upload_training_file(stage, data)
    uri = stage.storage.uri(file.key)
    records = data.count(b"\n")
    prompts = stage.upstream["validate"].metrics.get("prompts", 0)
    return StageResult(
        summary=f"{records} records {'were there already' if known else 'uploaded'}: {uri}",
        files={"training": file},
        resources={"training_uri": uri},
        metrics={
            "records": records,
            "prompts": prompts,
            "bytes": file.bytes,
            "already_there": known,
        },
    )
