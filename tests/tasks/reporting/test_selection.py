import pytest

from data_contracts.evaluation import BASE_STUDENT, DISTILLED_STUDENT, LARGE_BASELINE
from tasks.reporting import selection
from tests.tasks.reporting import factory


def test_the_worst_answers_have_the_lowest_score_then_the_largest_error_then_the_first_id() -> None:
    answers = [
        factory.prediction(query=query, score=score, mean_error=error)
        for query, score, error in (
            ("good", 5, 0.0),
            ("bad", 1, 35.0),
            ("worse", 1, 45.0),
            ("middling", 3, 12.0),
        )
    ]
    twin = factory.prediction(query="twin", score=3, mean_error=12.0)
    found = selection.worst([*answers, twin], n=4)
    assert [p.query for p in found[:2]] == ["worse", "bad"]
    assert [p.id for p in found[2:]] == sorted(p.id for p in (answers[3], twin))


def test_fewer_answers_than_asked_for_are_all_shown() -> None:
    assert len(selection.worst([factory.prediction()], n=10)) == 1
    assert selection.worst([], n=10) == []


def test_the_distilled_student_comes_first_among_the_students() -> None:
    summary = factory.summary((factory.LOCAL_STUDENT, BASE_STUDENT, DISTILLED_STUDENT))
    names = [student.name for student in selection.students(summary)]
    assert names == [DISTILLED_STUDENT, factory.LOCAL_STUDENT]


def test_without_a_student_the_best_candidate_is_in_focus() -> None:
    summary = factory.summary((BASE_STUDENT, LARGE_BASELINE))
    focus = selection.focus(summary)
    assert focus is not None
    assert focus.name == LARGE_BASELINE


def test_a_difference_is_found_in_either_direction() -> None:
    summary = factory.summary()
    forward = selection.difference(summary, DISTILLED_STUDENT, BASE_STUDENT)
    backward = selection.difference(summary, BASE_STUDENT, DISTILLED_STUDENT)
    assert forward is not None
    assert backward is not None
    assert backward.mean == pytest.approx(-forward.mean)
    assert backward.interval == pytest.approx((-forward.interval[1], -forward.interval[0]))


def test_slices_go_in_the_order_of_the_contract() -> None:
    sizes = selection.slice_sizes(factory.summary(), "difficulty")
    assert list(sizes) == ["easy", "medium", "hard", "edge"]
    assert sum(sizes.values()) == 120
