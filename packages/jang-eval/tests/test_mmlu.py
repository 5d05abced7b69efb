"""The task `mmlu` and its command, over questions of our own and a server that holds no model."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from jang_eval._evaluation import Outcome
from jang_eval._statistics import wilson
from jang_eval._tasks.mmlu import aggregate, build_prompt, task, written_choice
from jang_eval._tasks.mmlu_data import categories, draw, read_mmlu
from jang_eval.cli import app
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc

# As in hendrycks/test: no header, letters.
DEV = """"Which star is
the nearest? ",Sirius, the Sun ,Vega,Rigel,B
How many planets are there?,7,8,9,10,B
"""
TEST = """ What do planets go around?
,the Sun,the Moon,Earth,"nothing, really",A
Which is a moon?,Mars,Venus,Titan,Earth,C
Which is red?,Mars,Venus,Saturn,Neptune,A
"""
GOLDEN = """\
The following are multiple choice questions (with answers) about college physics.

Which star is
the nearest?
A. Sirius
B.  the Sun\x20
C. Vega
D. Rigel
Answer: B

How many planets are there?
A. 7
B. 8
C. 9
D. 10
Answer: B

What do planets go around?
A. the Sun
B. the Moon
C. Earth
D. nothing, really
Answer:"""
QUOTED = TEST.replace(" What do planets go around?\n", '" What do planets go around?\n"')


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three questions of physics, one of law."""
    made = tmp_path / "mmlu"
    for split in ("dev", "test"):
        (made / split).mkdir(parents=True)
    (made / "dev" / "college_physics_dev.csv").write_text(DEV)
    (made / "test" / "college_physics_test.csv").write_text(QUOTED)
    (made / "dev" / "professional_law_dev.csv").write_text("Is it so?,yes,no,maybe,never,C\n" * 2)
    (made / "test" / "professional_law_test.csv").write_text("May I?,yes,no,maybe,never,D\n")
    return made


class Scorer(runtime_pb2_grpc.RuntimeServiceServicer):
    """Gives continuations the scores of the first fragment that is in the context's last lines."""

    def __init__(self, scores: dict[str, tuple[float, ...]], written: str = "") -> None:
        self.scores, self.written = scores, written
        self.asked: list[Any] = []
        self.refuse_from = 10**9
        self.lock = threading.Lock()
        # Proto3's zero: not known.
        self.context_length = 0

    def GetModelInfo(self, request: Any, context: Any) -> Any:
        return pb.GetModelInfoResponse(
            name="fake", digest="ab" * 32, context_length=self.context_length
        )

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        limits = pb.Limits(max_prompt_tokens=self.context_length)
        return pb.GetServerInfoResponse(limits=limits)

    def Tokenize(self, request: Any, context: Any) -> Any:
        return pb.TokenizeResponse(token_ids=map(ord, request.prompt.text))

    def Score(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self.lock:
            if len(self.asked) >= self.refuse_from:
                context.abort(grpc.StatusCode.INTERNAL, "broken")
            self.asked.append(request)
        tokens = "".join(map(chr, request.context.token_ids.ids))
        question = (request.context.text or tokens).rpartition("\n\n")[2]
        (scores,) = (each for fragment, each in self.scores.items() if fragment in question)
        asked = [each.token_ids.ids for each in request.continuations]
        return pb.ScoreResponse(
            scores=[
                pb.ContinuationScore(
                    logprob=each, token_logprobs=[each / 2] * len(ids), token_ids=ids
                )
                for each, ids in zip(scores, asked, strict=True)
            ]
        )

    def Generate(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return pb.GenerateResponse(text=self.written)


SCORES = {
    "go around": (-1.0, -2.0, -3.0, -4.0),
    "a moon": (-5.0, -0.5, -0.6, -9.0),
    # Equally likely: the first counts.
    "red": (-1.5, -1.5, -1.5, -1.5),
    "May I": (-8.0, -8.0, -8.0, -7.5),
}


Serve = Callable[[Scorer], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    @contextmanager
    def serving(servicer: Scorer) -> Iterator[str]:
        with ThreadPoolExecutor(4) as pool:
            server = grpc.server(pool)
            runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            yield f"127.0.0.1:{port}"
            server.stop(None).wait()

    running: list[Any] = []

    def start(servicer: Scorer) -> str:
        running.append(serving(servicer))
        return running[-1].__enter__()

    yield start
    for each in running:
        each.__exit__(None, None, None)


def mmlu(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["mmlu", *map(str, arguments)])


def numbers(document: dict[str, Any]) -> dict[str, tuple[float, int]]:
    return {each["name"]: (each["value"], each["count"]) for each in document["metrics"]}


def test_a_prompt_has_every_space_where_lm_evaluation_harness_has_it(data: Path) -> None:
    subject = read_mmlu(data, shots=2).subjects[0]
    assert build_prompt(subject, subject.asked[0]) == GOLDEN
    without = read_mmlu(data, shots=0).subjects[0]
    head, _, rest = GOLDEN.partition("\n\n")
    assert build_prompt(without, without.asked[0]) == head + "\n\n" + rest.split("\n\n")[2]


def test_both_published_forms_are_the_same_questions(data: Path) -> None:
    file = data / "test" / "college_physics_test.csv"
    expected = read_mmlu(data, shots=2)
    rows = file.read_text()
    for number, letter in enumerate("ABCD"):
        rows = rows.replace(f",{letter}\n", f",{number}\n")
    # As spreadsheets write it: with a mark at the beginning.
    file.write_text("\ufeffquestion,choice0,choice1,choice2,choice3,answer\n" + rows)
    found = read_mmlu(data, shots=2)
    assert found.subjects == expected.subjects
    assert [each.id for each in found.subjects[0].asked] == [
        f"college_physics/{place}" for place in range(3)
    ]
    # Bytes are what is digested, the shots' too where there are any.
    digests = {expected.sha256, found.sha256, read_mmlu(data, shots=0).sha256}
    (data / "dev" / "college_physics_dev.csv").write_text(DEV.replace("Vega", "Deneb"))
    assert len(digests | {read_mmlu(data, shots=2).sha256}) == 4


def test_line_ends_within_a_question_stay_as_they_are(data: Path) -> None:
    file = data / "test" / "anatomy_test.csv"
    file.write_bytes(b'"I.\r\nII.",a,"b\rc",d,e,A\r\n')
    (question,) = read_mmlu(data, shots=0).subjects[0].asked
    assert (question.text, question.choices[1]) == ("I.\r\nII.", "b\rc")


def test_the_subjects_are_in_the_categories_of_lm_evaluation_harness() -> None:
    counts = {name: 0 for name in categories().values()}
    for category in categories().values():
        counts[category] += 1
    assert counts == {"stem": 19, "humanities": 13, "social_sciences": 12, "other": 13}
    assert categories()["anatomy"] == "stem"
    assert categories()["professional_law"] == "humanities"


def test_a_seed_draws_the_same_on_every_machine_and_more_of_it_holds_less(data: Path) -> None:
    questions = read_mmlu(data, shots=0)

    def drawn(subjects: int, count: int, seed: int) -> list[str]:
        chosen = draw(questions, subjects, count, seed).subjects
        return [question.id for subject in chosen for question in subject.asked]

    # The lowest sha256 of "0 college_physics/2" and so on, worked out by hand.
    assert drawn(1, 2, 0) == ["college_physics/0", "college_physics/1"]
    assert drawn(1, 2, 4) == ["college_physics/1", "college_physics/2"]
    assert drawn(1, 1, 4) == ["college_physics/2"]
    assert drawn(2, 1, 4) == ["college_physics/2", "professional_law/0"]


def test_the_most_likely_letter_is_chosen_and_every_question_counts_alike(
    serve: Serve, data: Path, tmp_path: Path
) -> None:
    scorer = Scorer(SCORES)
    output = tmp_path / "r.json"
    result = mmlu("--target", serve(scorer), "--data", data, "--shots", "2", "--json", "-o", output)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads(output.read_text())
    assert document["settings"] == {
        "shots": "2",
        "by": "likelihood",
        "subjects": "2 of 57",
        "subset": "all",
    }
    assert numbers(document) == {
        "accuracy": (3 / 4, 4),
        "category accuracy/stem": (2 / 3, 3),
        "category accuracy/humanities": (1.0, 1),
        "accuracy/college_physics": (2 / 3, 3),
        "accuracy/professional_law": (1.0, 1),
    }
    interval = wilson(3, 4)
    assert document["metrics"][0]["interval"] == {"low": interval.low, "high": interval.high}
    assert [(each["id"], each["numbers"]) for each in document["outcomes"]] == [
        ("college_physics/0", {"correct": 1.0, "chosen": 0.0}),
        ("college_physics/1", {"correct": 0.0, "chosen": 1.0}),
        ("college_physics/2", {"correct": 1.0, "chosen": 0.0}),
        ("professional_law/0", {"correct": 1.0, "chosen": 3.0}),
    ]
    assert document["outcomes"][1]["arrays"] == {"logprobs": [-5.0, -0.5, -0.6, -9.0]}
    assert document["outcomes"][1]["texts"] == {
        "question": "Which is a moon?",
        "expected": "C. Titan",
        "answer": "B. Venus",
    }
    (first,) = (each for each in scorer.asked if "go around" in each.context.text)
    assert first.context.text == GOLDEN
    assert [each.text for each in first.continuations] == [" A", " B", " C", " D"]


def test_an_interrupted_run_goes_on_and_a_subset_is_asked_of_no_more(
    serve: Serve, data: Path, tmp_path: Path
) -> None:
    scorer = Scorer(SCORES)
    scorer.refuse_from = 2
    options = ("--target", serve(scorer), "--data", data, "--shots", "0", "--in-flight", "1")
    options += ("--subset", "1x3", "-o", tmp_path / "r.json")
    broken = mmlu(*options)
    assert (broken.exit_code, len(broken.stderr.splitlines())) == (2, 1)
    assert "INTERNAL" in broken.stderr
    scorer.refuse_from = 10**9
    result = mmlu(*options)
    assert result.exit_code == 0, result.output
    assert "college_physics" in result.stdout
    assert "66.7 %" in result.stdout
    questions = [each.context.text.rpartition("\n\n")[2] for each in scorer.asked]
    assert len(questions) == len(set(questions)) == 3
    changed = mmlu(*options[:-2], "--by", "generation", "-o", tmp_path / "other.json")
    assert changed.exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["seed"] == "0"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (" B", 1),
        (" (c) the third", 2),
        ("D. nothing, really\nA", 3),
        ("The correct answer is: A.", 0),
        ("**Answer:** b", 1),
        (" I choose option C", 2),
        ("A dog", None),
        ("The answer is a dog", None),
        ("Mars", None),
        ("\n", None),
        ("", None),
    ],
)
def test_a_written_letter_is_found_where_it_is_meant_as_one(text: str, place: int | None) -> None:
    assert written_choice(text) == place


def test_by_generation_the_model_writes_one_line_and_what_names_no_letter_is_wrong(
    serve: Serve, data: Path
) -> None:
    found: list[dict[str, Any]] = []
    for written in (" A", " who knows"):
        scorer = Scorer({}, written)
        result = mmlu(
            *("--target", serve(scorer), "--data", data, "--shots", "2", "--by", "generation"),
            "--json",
        )
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout))
    shares = [numbers(each) for each in found]
    assert [each["accuracy"] for each in shares] == [(0.5, 4), (0.0, 4)]
    assert [each["answered"] for each in shares] == [(1.0, 4), (0.0, 4)]
    assert found[0]["outcomes"][1]["texts"]["answer"] == "A. Mars"
    assert found[1]["outcomes"][1]["numbers"] == {"correct": 0.0}
    assert found[1]["outcomes"][1]["texts"] == {
        "question": "Which is a moon?",
        "expected": "C. Titan",
        "written": " who knows",
    }
    (request,) = (each for each in scorer.asked if "go around" in each.prompt.text)
    assert request.prompt.text == GOLDEN
    assert list(request.stopping.stop_strings) == ["\n"]
    assert request.sampling.temperature == 0


def test_an_overlong_question_is_cut_from_the_left_and_does_not_end_the_run(
    serve: Serve, data: Path
) -> None:
    scorer = Scorer(SCORES, " A")
    # Of the four prompts only that of the longest question is longer.
    subject = read_mmlu(data, shots=2).subjects[0]
    lengths = sorted((len(build_prompt(subject, each)) for each in subject.asked), reverse=True)
    assert lengths[0] > lengths[1] + 4
    scorer.context_length = lengths[0] - 4
    options = ("--target", serve(scorer), "--data", data, "--shots", "2", "--json")
    document = json.loads(mmlu(*options).stdout)
    # Of the continuation the last token is not read.
    assert [each["numbers"].get("tokens cut") for each in document["outcomes"]] == [
        5.0,
        *[None] * 3,
    ]
    assert numbers(document)["accuracy"] == (3 / 4, 4)
    assert numbers(document)["prompts cut"] == (1.0, 4)
    (cut,) = (each for each in scorer.asked if each.context.token_ids.ids)
    assert "".join(map(chr, cut.context.token_ids.ids)) == GOLDEN[5:]
    assert [[*map(chr, each.token_ids.ids)] for each in cut.continuations] == [
        [" ", letter] for letter in "ABCD"
    ]

    scorer.asked.clear()
    scorer.context_length = lengths[1] + 32
    assert scorer.context_length > lengths[0]
    document = json.loads(mmlu(*options, "--by", "generation").stdout)
    assert numbers(document)["prompts cut"] == (1.0, 4)
    (cut,) = (each for each in scorer.asked if each.prompt.token_ids.ids)
    assert "".join(map(chr, cut.prompt.token_ids.ids)) == GOLDEN[-lengths[1] :]


def test_a_server_that_scores_no_number_is_no_model_that_answers_wrongly(
    serve: Serve, data: Path
) -> None:
    scores = SCORES | {"red": (float("nan"),) * 4}
    result = mmlu("--target", serve(Scorer(scores)), "--data", data, "--shots", "0")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "found a score of nan, expected a finite one" in result.stderr


def _without_dev(data: Path) -> None:
    (data / "dev" / "college_physics_dev.csv").unlink()


def _with(name: str, text: str) -> Callable[[Path], None]:
    return lambda data: (data / "test" / f"{name}_test.csv").write_text(text) and None


@pytest.mark.parametrize(
    ("change", "options", "parts"),
    [
        (None, ("--data", "cais/mmlu"), ("cais/mmlu: found no directory", "hub:cais/mmlu")),
        (None, ("--shots", "6"), ("shots: found 6, expected 0 to 5",)),
        (None, ("--shots", "3"), ("college_physics_dev.csv: found 2 questions, expected 3",)),
        (None, ("--subset", "10"), ("subset: found '10', expected",)),
        (None, ("--subset", "3x1"), ("subset: found 3 subjects, expected 1 to 2",)),
        (None, ("--subset", "2x3"), ("found 3 questions, expected 1 to 1", "professional_law")),
        (None, ("--in-flight", "0"), ("in_flight: found 0, expected 1 to",)),
        (_without_dev, (), ("college_physics_dev.csv: cannot be read",)),
        (_with("alchemy", TEST), (), ("found subject 'alchemy'",)),
        (_with("anatomy", ""), ("--shots", "0"), ("anatomy_test.csv: found 0 questions",)),
        (_with("virology", "a,b,c,d,e,E\n"), ("--shots", "0"), ("question 0: found answer 'E'",)),
        (_with("virology", "a,b,c\n"), ("--shots", "0"), ("question 0: found 3 columns",)),
        (_with("virology", 'a,"b" c\n'), ("--shots", "0"), ("virology_test.csv: found no CSV",)),
    ],
)
def test_a_mistake_is_one_line_before_the_server_is_asked(
    data: Path, change: Callable[[Path], None] | None, options: tuple[str, ...], parts: Any
) -> None:
    if change is not None:
        change(data)
    result = mmlu("--target", "127.0.0.1:1", "--data", data, "--shots", "2", *options)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_the_mean_is_weighted_by_size(data: Path) -> None:
    outcomes = [Outcome(f"{n}", "anatomy", {"correct": float(n == 0)}) for n in range(9)]
    outcomes.append(Outcome("9", "virology", {"correct": 1.0}))
    metrics = {each.name: each.value for each in aggregate(outcomes, "likelihood")}
    assert metrics["accuracy"] == 2 / 10
    assert metrics["accuracy/anatomy"] == 1 / 9
    assert len(task(data, shots=0, by="likelihood", subset="2x1", seed=1).items) == 2
