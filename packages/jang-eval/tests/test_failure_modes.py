import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jang_eval import FailureMode, detect_failure_mode
from jang_eval._tasks.qa_failure_modes import examine

# A busy machine is no failure.
UNHURRIED = settings(deadline=None)

QUESTION = "What is the capital of France?"

FAILING = [
    (FailureMode.EMPTY, ""),
    (FailureMode.EMPTY, " \n\t\u3000 "),
    (FailureMode.EMPTY, "\u200b\ufeff\x00"),
    (FailureMode.PROMPT_ECHO, QUESTION),
    (FailureMode.PROMPT_ECHO, f"Question: {QUESTION.upper()}\nAnswer:"),
    (FailureMode.PROMPT_ECHO, f"{QUESTION} " * 20),
    (FailureMode.PROMPT_ECHO, f"{QUESTION}\nWhat is the capital of Fra"),
    (FailureMode.PROMPT_ECHO, f"{QUESTION}\n{QUESTION}\nWhat is the capital of Fra"),
    (FailureMode.PROMPT_ECHO, f"{QUESTION} I what the"),
    (FailureMode.NUMBER_SEQUENCE, "1 2 3 4 5 6"),
    (FailureMode.NUMBER_SEQUENCE, "1. 2. 3. 4. 5. 6. 7."),
    (FailureMode.NUMBER_SEQUENCE, "(10)\n(20)\n(30)\n(40)\n(50)\n(60)"),
    (FailureMode.NUMBER_SEQUENCE, "1 2 3 1 2 3 1 2 3 1 2 3 1 2 3 1 2 3"),
    (FailureMode.NUMBER_SEQUENCE, "738291038471029374652948571"),
    (
        FailureMode.NUMBER_SEQUENCE,
        "The answer that you are looking for is " + "3, 14, 15, " * 7 + "9",
    ),
    (FailureMode.REPETITION_LOOP, "0000000"),
    (FailureMode.REPETITION_LOOP, " 0000000\n"),
    (FailureMode.REPETITION_LOOP, "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"),
    (FailureMode.REPETITION_LOOP, "the " * 4000),
    (FailureMode.REPETITION_LOOP, "ParisParisParisParisParisParis"),
    (FailureMode.REPETITION_LOOP, "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    (FailureMode.REPETITION_LOOP, "The capital of France is Paris. " * 3),
    (FailureMode.REPETITION_LOOP, "is the process of the plant and of the " * 3 + "is the pro"),
    (FailureMode.REPETITION_LOOP, "巴黎巴黎巴黎巴黎巴黎"),
    (FailureMode.REPETITION_LOOP, "столица — " * 5),
    (FailureMode.REPETITION_LOOP, "The capital of France is Paris." + "\n" * 30),
    (FailureMode.REPETITION_LOOP, "\n \n" * 12 + "Paris."),
    # JANG_2S of SmolLM2-135M-Instruct, at 64 tokens.
    (
        FailureMode.REPETITION_LOOP,
        "\n\xa0 Christian\xa0 Black\xa0\xa0\xa0\n\xa0 your\xa0\xa0 your\xa0\xa0 \xa0\n\xa0 Turks"
        "\xa0\n\xa0\xa0 Sk" + "\xa0" * 36,
    ),
    (FailureMode.REPETITION_LOOP, " Black\xa0\n" + "\xa0" * 41 + "\ufffd" + "\xa0" * 14),
    (
        FailureMode.REPETITION_LOOP,
        "Photosynthesis is how green plants make sugar with the light of the sun, from the water "
        "that their roots take up and from the carbon dioxide that is in the air around them, and"
        + " so on"
        * 6,
    ),
]

SOUND = [
    "4",
    "...",
    "The capital of France is Paris.",
    "The capital of France? Paris.",
    f"{QUESTION} The capital of France is Paris, on the Seine.",
    f"{QUESTION} What is the capital of Fra, do you mean?",
    "What is the capital of",
    "Ha ha ha",
    "No, no, no, no!",
    "Paris, Paris, Paris!",
    "2 + 2 = 4, 4 + 4 = 8, 8 + 8 = 16",
    "1914, 1918, 1939, 1945",
    "1,000,000,000",
    "1000000000",
    "1. Wash the rice.\n2. Boil it in water.\n3. Drain it.\n4. Eat it.\n5. Rest.\n6. Repeat.",
    "The games were held in 1992, 1996, 2000, 2004, 2008, 2012 and, a year late, in 2021.",
    "The rose is red,\nthe rose is red,\nand so is wine.\n"
    "The night is long,\nthe rose is red,\nand so is wine.\n"
    "Sing low, my heart,\nthe rose is red,\nand so is wine.",
    "Let it be, and let it stay as it was. Let it be, and let it stay as it was.",
    "When I find myself in times of trouble, somebody comes to me and says the wise words that I "
    "have heard before, and I sing them: let it be, let it be, let it be, let it be",
    "Paris\n" + "\n" * 15,
    "It stands far to the right in this listing of cities:\n\n" + " " * 40 + "Paris, in France.",
    "def total(xs):\n    result = 0\n    for x in xs:\n        result += x\n    return result\n",
    "table = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\nfor step in range(10):\n    table[step] = step ** 2\n",
    "| city | country |\n|---------------------------|---------|\n| Paris | France, in Europe |",
    "法国的首都是巴黎。它位于塞纳河畔。",
    "Столица Франции — Париж.",
    "عاصمة فرنسا هي باريس.",
    "?!.,;:-!?..,;*&^%$#@!~+=<>/\\|[]{}",
]


@pytest.mark.parametrize(("mode", "text"), FAILING)
def test_a_text_that_fails_is_named_by_its_mode(mode: FailureMode, text: str) -> None:
    assert detect_failure_mode(text, QUESTION) == mode


@pytest.mark.parametrize("text", SOUND)
def test_a_near_miss_has_no_failure_mode(text: str) -> None:
    assert detect_failure_mode(text, QUESTION) is None
    assert examine(text, QUESTION).sound_text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("4 4 4 4 4 4 4 4 4 4 4 4 4 4", "4 4"),
        ("Maris Paris Paris Paris Paris Paris Paris", "Maris Paris P"),
        ("It is 4. 1 2 3 4 5 6 7 8 9 10 11 12", "It is 4"),
        ("1 2 3 4 5 6", "1"),
        ("0000000", "00"),
        ("Paris." + "\n" * 30, "Paris."),
        ("carbon\n   dioxide", "carbon dioxide"),
        (f"{QUESTION} Paris.", "? Paris."),
    ],
)
def test_what_was_said_before_the_failure_is_kept(text: str, sound: str) -> None:
    assert examine(text, QUESTION).sound_text == sound


def test_without_a_prompt_nothing_echoes() -> None:
    assert detect_failure_mode(QUESTION) is None
    assert detect_failure_mode("Good morning", "Good morning") is None


WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=10)
UNITS = st.lists(WORDS, min_size=1, max_size=32).map(" ".join)


@UNHURRIED
@given(unit=UNITS, copies=st.integers(min_value=12, max_value=14))
def test_any_unit_of_up_to_32_words_repeated_12_times_is_a_loop(unit: str, copies: int) -> None:
    assert detect_failure_mode(" ".join([unit] * copies)) == FailureMode.REPETITION_LOOP


@UNHURRIED
@given(unit=UNITS.filter(lambda unit: len(unit) >= 10), cut=st.floats(0, 1))
def test_any_long_unit_repeated_3_times_is_a_loop_wherever_it_is_cut(unit: str, cut: float) -> None:
    text = " ".join([unit] * 3) + " " + unit[: int(cut * len(unit))]
    assert detect_failure_mode(text) == FailureMode.REPETITION_LOOP


PROSE = """
light water green leaf energy sugar process convert chemical carbon dioxide oxygen root air through
which using from into during called stored within cells absorb release sunlight
"""


@UNHURRIED
@given(st.permutations(PROSE.split()).map(" ".join))
def test_words_that_are_all_different_never_fail(text: str) -> None:
    assert detect_failure_mode(text, QUESTION) is None


@UNHURRIED
@given(answer=st.text(max_size=200), prompt=st.text(max_size=50))
def test_the_detectors_take_any_text_and_never_add_to_it(answer: str, prompt: str) -> None:
    examination = examine(answer, prompt)
    assert examination.mode != FailureMode.WRONG_ANSWER
    assert set(examination.sound_text) <= {*answer, " "}
    assert (examination.sound_text == " ".join(answer.split())) or examination.mode is not None
