"""Upload: the training file in Bedrock's format, by its content's hash, verified."""

from __future__ import annotations

import hashlib

from data_contracts.conversation import MAX_FILE_BYTES, ConversationRecord, parse_line
from data_contracts.queries import LabelledQuery, UnlabelledQuery
from data_contracts.runs import StoredFile
from reelroute.errors import StageError
from reelroute.parsing import parse_strict
from reelroute.rubric import percents
from tasks.answer_text import answer_text
from tasks.base import StageContext, logger, stage_task
from tasks.validate import read_prompt_rows, read_rows


@stage_task
def build_training_file(stage: StageContext) -> bytes:
    """The training rows as Bedrock conversation records, every line read back strictly.

    Queries that the job's teacher is to label follow them, without an answer.

    Raises:
        StageError: the file is larger than the service takes.
        ContractError: a line breaks the service's schema (the service would drop it silently).
    """
    prompt = stage.settings.prompt("router").text
    lines = [_line(prompt, row) for row in read_rows(stage.read("validate", "train"))]
    lines += [_prompt_line(prompt, query.query) for query in _prompts(stage)]
    data = "".join(f"{line}\n" for line in lines).encode()
    if len(data) > MAX_FILE_BYTES:
        raise StageError(
            f"the training file has {len(data):,} bytes, the service takes {MAX_FILE_BYTES:,}: "
            "lower `label.size`"
        )
    return data


def _prompts(stage: StageContext) -> list[UnlabelledQuery]:
    if "prompts" not in stage.upstream["validate"].files:
        return []
    return read_prompt_rows(stage.read("validate", "prompts"))


def _prompt_line(prompt: str, query: str) -> str:
    line = ConversationRecord.of(prompt, query).to_line()
    parse_line(line)
    return line


def _line(prompt: str, row: LabelledQuery) -> str:
    line = ConversationRecord.of(prompt, row.query, answer_text(row.weights)).to_line()
    read_back = parse_line(line)
    assert read_back.assistant_text is not None
    if percents(parse_strict(read_back.assistant_text)) != percents(row.weights):
        raise StageError(f"query {row.id}: the training record holds other weights than its label")
    return line


@stage_task
def upload_training_file(stage: StageContext, data: bytes) -> tuple[StoredFile, bool]:
    """Upload under the content's own hash and verify by reading back.

    Returns:
        the file, and whether it was there before (identical content isn't uploaded twice).
    """
    digest = hashlib.sha256(data).hexdigest()
    key = f"datasets/{digest}/train.jsonl"
    known = stage.storage.verify(StoredFile(key=key, sha256=digest, bytes=len(data)))
    file = stage.storage.put_file(key, data, "application/jsonl")
    logger().info("training file: %s, SHA-256 %s", stage.storage.uri(key), digest)
    return file, known
