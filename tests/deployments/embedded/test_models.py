"""The embedded models, without a server around them."""

from collections import Counter

import pytest

from data_contracts.heldout import benchmark_queries, is_held_out, near_benchmark
from deployments.embedded.models.catalogue import (
    LARGE_BASELINE,
    LIGHT_STUDENT,
    RUBRIC_JUDGE,
    TEACHER,
    routing_models,
)
from deployments.embedded.models.corpus import recorded_answers
from deployments.embedded.models.embeddings import static_embeddings
from deployments.embedded.models.judge import RubricJudge
from deployments.embedded.models.large_baseline import without_held_out
from deployments.embedded.models.light_student import LightStudent, train
from reelroute.errors import AnswerError
from reelroute.parsing import parse_forgiving, parse_strict
from reelroute.rubric import score

UNSEEN = "a zeppelin humming over a yodelling contest"


@pytest.fixture(scope="module")
def student() -> LightStudent:
    answers = without_held_out(recorded_answers())[:1500]
    return train([a.query for a in answers], [a.weights for a in answers], static_embeddings())


def mean_rubric(answer: object) -> float:
    model = answer
    total = 0
    for labelled in benchmark_queries():
        try:
            weights = parse_forgiving(model.answer(labelled.query)).weights  # type: ignore[attr-defined]
        except AnswerError:
            weights = None
        total += score(weights, labelled.weights).score
    return total / len(benchmark_queries())


def test_the_corpus_is_whole_and_balanced() -> None:
    answers = recorded_answers()
    assert len(answers) == 9_967
    assert Counter(answer.channel for answer in answers) == {
        "visual": 2_505,
        "transcription": 2_484,
        "audio": 2_463,
        "metadata": 2_445,
        "mixed": 70,
    }


def test_the_teacher_names_the_nearest_recorded_query_for_one_it_never_saw() -> None:
    weights = parse_strict(routing_models().model(TEACHER).answer(UNSEEN))
    assert weights.reasoning.startswith(f"Derived for '{UNSEEN}' from recorded answers")
    assert all(round(100 * value) % 5 == 0 for value in weights.values())


def test_the_large_baseline_remembers_nothing_held_out() -> None:
    memory = without_held_out(recorded_answers())
    assert 9_000 < len(memory) < len(recorded_answers()) - 300
    assert not any(is_held_out(a.query) or near_benchmark(a.query) for a in memory)


def test_the_base_student_answers_a_share_in_prose_and_always_the_same() -> None:
    base = routing_models().model(LIGHT_STUDENT)
    queries = [answer.query for answer in recorded_answers()[:400]]
    answers = [base.answer(query) for query in queries]
    assert answers == [base.answer(query) for query in queries]
    prose = [text for text in answers if not text.startswith("{")]
    assert 0.18 < len(prose) / len(answers) < 0.32
    repairable = 0
    for text in prose:
        with pytest.raises(AnswerError):
            parse_strict(text)
        repairable += "```" in text
    assert 0 < repairable < len(prose)


def test_training_pays(student: LightStudent) -> None:
    base = mean_rubric(routing_models().model(LIGHT_STUDENT))
    trained = mean_rubric(student)
    large = mean_rubric(routing_models().model(LARGE_BASELINE))
    assert base < 2.3
    assert trained > base + 0.5
    assert 2.8 < large < 4


def test_the_same_records_give_the_same_student() -> None:
    answers = recorded_answers()[:200]
    arguments = [a.query for a in answers], [a.weights for a in answers], static_embeddings()
    first, second = train(*arguments), train(*arguments)
    queries = [answer.query for answer in recorded_answers()[200:300]]
    assert [first.answer(q) for q in queries] == [second.answer(q) for q in queries]


def test_the_light_student_says_which_words_moved_it(student: LightStudent) -> None:
    weights = parse_strict(student.answer("loud applause and a drum solo"))
    assert "'applause'" in weights.reasoning or "'drum'" in weights.reasoning
    assert weights.dominant in weights.reasoning
    assert "'and'" not in weights.reasoning


@pytest.mark.parametrize("query", ["", "?", "🎬", "x" * 3_000, "日本の古い映画", "0"])
def test_every_model_answers_anything(student: LightStudent, query: str) -> None:
    for model in (TEACHER, LARGE_BASELINE):
        parse_forgiving(routing_models().model(model).answer(query))
    parse_strict(student.answer(query))
    assert routing_models().model(LIGHT_STUDENT).answer(query)


def test_the_judge_does_not_route() -> None:
    with pytest.raises(AnswerError):
        parse_forgiving(routing_models().model(RUBRIC_JUDGE).answer("dog barking loudly"))


def test_boilerplate_costs_a_perfect_answer_its_last_point() -> None:
    def answer(reasoning: str) -> str:
        return (
            '{"visual": 0.5, "audio": 0.2, "transcription": 0.2, "metadata": 0.1, '
            f'"reasoning": "{reasoning}"}}'
        )

    pairs = [
        ("red car", answer("The query red car fits the visual channel best")),
        ("blue boat", answer("The query blue boat fits the visual channel best")),
        ("old barn", answer("An old barn is a thing that is seen")),
        ("green hill", answer("It fits that channel best of all")),
    ]
    judge = RubricJudge(pairs)
    verdicts = [judge.judge(prompt, text, answer("x")) for prompt, text in pairs]
    assert [verdict and verdict.score for verdict in verdicts] == [4, 4, 5, 4]
