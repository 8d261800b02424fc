"""What windows are compared with: the release's training set, whatever it was made of."""

from __future__ import annotations

from data_contracts.queries import UnlabelledQuery
from tasks.monitor.reference import training_set
from tasks.stable import MARK_KEY, StableDeployment
from tests.support import Place, corpus_rows, jsonl, record
from tests.tasks.test_releases import ARN, move_to, release


def test_calls_of_the_stable_deployment_are_requests_and_prompts_are_known_words(
    place: Place,
) -> None:
    run, storage = place.run(), place.storage()
    prompt = UnlabelledQuery(query="xylophone").model_dump_json() + "\n"
    files = {
        "train": run.put_text("dataset/train.jsonl", jsonl(corpus_rows(5))),
        "prompts": run.put_text("dataset/prompts.jsonl", prompt),
    }
    run.write_record(record(run, "validate", files=files))
    move_to(storage, release())
    mark = StableDeployment(
        deployment_arn="arn:stable", region="r", version="run-1-aaaa", model_arn=ARN
    )
    before = training_set(storage, 1)
    storage.put(MARK_KEY, mark.model_dump_json().encode())
    after = training_set(storage, 1)
    assert before is not None
    assert after is not None
    assert (before.models, after.models) == ({ARN}, {ARN, "arn:stable"})
    assert "xylophone" in after.vocabulary.words
    assert after.vocabulary.queries == 6
