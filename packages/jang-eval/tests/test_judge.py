import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jang_eval import FailureMode, Verdict
from jang_eval._tasks.qa_judge import judge
from jang_eval._tasks.qa_questions import load_questions

# A busy machine is no failure.
UNHURRIED = settings(deadline=None)

QUESTIONS = {question.id: question for question in load_questions().questions}

CORRECT = [
    ("addition", "4"),
    ("addition", "2+2=4"),
    ("addition", "The sum is **4**."),
    ("addition", "It equals 4.0, as you know."),
    ("addition", "Four."),
    ("addition", "答案是4。"),
    ("capital", "The capital of France is Paris."),
    ("capital", "PARIS"),
    ("ocean", "The largest ocean on Earth is the Pacific Ocean, 165,250,000 km² in all."),
    ("author", "Shakespeare's Romeo and Juliet was written by him around 1595."),
    ("spider", "A spider has eight legs."),
    ("spider", "Spiders are 8-legged arachnids with 8 eyes."),
    ("photosynthesis", "Plants turn sunlight into chemical energy."),
    ("photosynthesis", "6CO2 + 6H2O -> C6H12O6 + 6O2"),
]

WRONG = [
    ("addition", "14"),
    ("addition", "The answer is 4,000."),
    ("addition", "2.4 or 4.5 or 1/4 or -4 or 42"),
    ("addition", "forty-four, or fourteen"),
    ("capital", "Parisian life is in London."),
    ("ocean", "The specific ocean is the Atlantic."),
    ("author", "Charles Dickens wrote it."),
    ("spider", "A spider has 8 eyes and six legs."),
    ("spider", "eighteen, or forty-eight, or 18, or 8.5"),
    ("photosynthesis", "A photograph of a synthesizer, struck by lightning."),
]


@pytest.mark.parametrize(("id", "answer"), CORRECT)
def test_an_answer_with_what_was_expected_is_correct(id: str, answer: str) -> None:
    judgement = judge(answer, QUESTIONS[id])
    assert (judgement.verdict, judgement.failure_mode) == (Verdict.CORRECT, None)


@pytest.mark.parametrize(("id", "answer"), WRONG)
def test_an_answer_without_it_is_broken_as_a_wrong_answer(id: str, answer: str) -> None:
    judgement = judge(answer, QUESTIONS[id])
    assert judgement.verdict == Verdict.BROKEN
    assert judgement.failure_mode == FailureMode.WRONG_ANSWER
    assert judgement.ideas_found == ()


@pytest.mark.parametrize(
    ("id", "answer", "mode"),
    [
        ("capital", "Paris " * 30, FailureMode.REPETITION_LOOP),
        ("capital", "What is the capital of France? Paris.", FailureMode.PROMPT_ECHO),
        ("addition", "4. 1 2 3 4 5 6 7 8 9 10", FailureMode.NUMBER_SEQUENCE),
    ],
)
def test_the_expected_answer_before_a_failure_is_partial(
    id: str, answer: str, mode: FailureMode
) -> None:
    judgement = judge(answer, QUESTIONS[id])
    assert (judgement.verdict, judgement.failure_mode) == (Verdict.PARTIAL, mode)


@pytest.mark.parametrize(
    ("id", "answer", "mode"),
    [
        ("addition", "1 2 3 4 5 6", FailureMode.NUMBER_SEQUENCE),
        ("addition", "4444444444444444444444", FailureMode.REPETITION_LOOP),
        ("addition", "What is 2+2?", FailureMode.PROMPT_ECHO),
        ("spider", "", FailureMode.EMPTY),
    ],
)
def test_an_expected_answer_that_is_only_part_of_the_failure_is_broken(
    id: str, answer: str, mode: FailureMode
) -> None:
    judgement = judge(answer, QUESTIONS[id])
    assert (judgement.verdict, judgement.failure_mode) == (Verdict.BROKEN, mode)


@pytest.mark.parametrize(
    ("answer", "verdict", "ideas"),
    [
        ("It is done by plants.", Verdict.PARTIAL, ("plants",)),
        ("It needs light and water.", Verdict.PARTIAL, ("light", "water or chlorophyll")),
        (
            "It makes food and oxygen out of carbon dioxide.",
            Verdict.CORRECT,
            ("energy or sugar", "carbon dioxide", "oxygen"),
        ),
    ],
)
def test_photosynthesis_takes_three_ideas_and_one_or_two_are_partial(
    answer: str, verdict: Verdict, ideas: tuple[str, ...]
) -> None:
    judgement = judge(answer, QUESTIONS["photosynthesis"])
    assert (judgement.verdict, judgement.failure_mode) == (verdict, None)
    assert judgement.ideas_found == ideas


def test_no_question_answers_itself() -> None:
    for question in QUESTIONS.values():
        assert not [idea.name for idea in question.ideas if idea.pattern.search(question.text)]


@UNHURRIED
@given(answer=st.text(), id=st.sampled_from(sorted(QUESTIONS)))
def test_any_text_gets_a_verdict_and_a_mode_that_fit_together(answer: str, id: str) -> None:
    judgement = judge(answer, QUESTIONS[id])
    assert (judgement.verdict == Verdict.BROKEN) == (not judgement.ideas_found)
    if judgement.verdict == Verdict.CORRECT:
        assert judgement.failure_mode is None
    if judgement.verdict == Verdict.BROKEN:
        assert judgement.failure_mode is not None
