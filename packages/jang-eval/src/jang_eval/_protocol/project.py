"""What a report is made of: models, data, sizes of tasks; and the measures that follow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from jang_eval._evaluation import Task
from jang_eval._hub import LocalData, LocalTexts
from jang_eval._prompts import read_prompts
from jang_eval._protocol.candidates import Candidate
from jang_eval._protocol.measures import (
    Measure,
    Say,
    Show,
    measure_task,
    store_reference,
)
from jang_eval._reference.file import FULL, Header
from jang_eval._reference.making import MakeRecord, reference_of_prompts, reference_of_texts
from jang_eval._reference.reader import ReferenceFile
from jang_eval._sandbox import Sandbox
from jang_eval._target import Target
from jang_eval._tasks import humaneval, kl, logit_mse, mmlu, perplexity, qa, speed
from jang_eval._tasks.qa_questions import QuestionSet, load_questions
from jang_eval._windows import Convention, Windowing, read_texts

_STORE_PROMPTS: Final = "store logits of prompts"
_STORE_TEXTS: Final = "store logits of texts"
_SCORES_IN_FLIGHT: Final = 4
# Long answers are quicker together.
_ANSWERS_IN_FLIGHT: Final = 16
# Each holds logits of a whole window.
_WINDOWS_IN_FLIGHT: Final = 2


@dataclass(frozen=True)
class Sizes:
    """How much each task asks; the defaults are a short protocol of some minutes for a small model.

    Attributes:
        subset: Of MMLU: subjects x questions.
        shots: Of MMLU.
        limit: Problems of HumanEval.
        max_tokens: Of each answer to the six questions.
        window: Tokens of a window of KL and perplexity.
        windows: So many of them, spread over the text.
        load: Of the measurement of speed.
        seed: Of all draws.
    """

    subset: str = "10x5"
    shots: int = 5
    limit: int = 20
    max_tokens: int = 64
    window: int = 512
    windows: int = 16
    load: speed.Load = field(default_factory=speed.Load)
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """What models are asked; None, or no text, leaves out what needs it.

    Attributes:
        mmlu: Directory of MMLU.
        humaneval: File of HumanEval.
        sandbox: Where the code that models write is run.
        texts: For KL divergence and perplexity.
        prompts: File of prompts for the differences of logits; the six questions if None.
        questions: Of `qa`.
    """

    mmlu: LocalData | None
    humaneval: LocalData | None
    sandbox: Sandbox | None
    texts: LocalTexts
    prompts: Path | None
    questions: QuestionSet


@dataclass(frozen=True)
class Project:
    """One report.

    Attributes:
        candidates: The models, the reference first.
        work: Where everything is kept.
        data: What is asked.
        sizes: How much of it.
        reference_bytes: The most that the reference's stored logits may take, of texts and of
            prompts each.
        timeout: Seconds to wait for one answer of a server.
        threads: Of the servers, on the CPU; as many as they like if None.
    """

    candidates: tuple[Candidate, ...]
    work: Path
    data: Data
    sizes: Sizes
    reference_bytes: int
    timeout: float
    threads: int | None

    def result(self, candidate: Candidate, name: str) -> Path:
        """The file of what came of a task."""
        return self.work / "results" / f"{candidate.name}-{name}.json"

    def log(self, candidate: Candidate, program: str) -> Path:
        """What a program said."""
        return self.work / "logs" / f"{candidate.name}-{program}.log"

    @property
    def text_logits(self) -> Path:
        """The reference's logits on the texts."""
        return self.work / "reference" / "texts.bin"

    @property
    def prompt_logits(self) -> Path:
        """The reference's logits on the prompts."""
        return self.work / "reference" / "prompts.bin"


def measures(project: Project) -> list[Measure]:
    """What is measured of every model, in this order; data are read now.

    Raises:
        DataError: They cannot be.
        OptionError: A size is out of range.
    """
    data, sizes = project.data, project.sizes
    # First, for the server's peak of memory is to be that of plain use.
    found = [measure_task("speed", _speed(sizes), 1)]
    if data.mmlu is not None:
        asked = mmlu.task(
            data.mmlu.path,
            shots=sizes.shots,
            by="likelihood",
            subset=sizes.subset,
            seed=sizes.seed,
        )
        asked = replace(asked, data_source=data.mmlu.source)
        found.append(measure_task(asked.name, _same(asked), _SCORES_IN_FLIGHT))
    if data.humaneval is not None and data.sandbox is not None:
        written = humaneval.task(data.humaneval.path, data.sandbox, limit=sizes.limit)
        written = replace(written, data_source=data.humaneval.source)
        found.append(measure_task(written.name, _same(written), _ANSWERS_IN_FLIGHT))
    found.append(measure_task("qa", partial(_qa, project), _SCORES_IN_FLIGHT))
    logits = partial(_logit_mse, project, prompts_of(data))
    found.append(measure_task("logit-mse", logits, 1, _STORE_PROMPTS))
    if data.texts.paths:
        read_texts(data.texts.paths)
        diverged = partial(_kl, project)
        found.append(measure_task("kl", diverged, _WINDOWS_IN_FLIGHT, _STORE_TEXTS))
        found.append(measure_task("perplexity", partial(_perplexity, project), _SCORES_IN_FLIGHT))
    return found


def left_out(data: Data) -> list[str]:
    """What is not measured, and why."""
    found: list[str] = []
    if data.mmlu is None:
        found.append("MMLU was left out: there was no --mmlu.")
    if data.humaneval is None:
        found.append("HumanEval was left out: there was no --humaneval.")
    elif data.sandbox is None:
        found.append(
            "HumanEval was left out: it runs code that models write, and there was no "
            "--allow-code-execution."
        )
    if not data.texts.paths:
        found.append("KL divergence and perplexity were left out: there was no --text.")
    return found


def store_prompts(project: Project, target: Target, say: Say, show: Show) -> None:
    """Keep what the reference says of the prompts; see `store_reference`."""
    header, make = reference_of_prompts(target, prompts_of(project.data), FULL)
    _store(header, make, project.prompt_logits, project, say, show)


def store_texts(project: Project, target: Target, say: Say, show: Show) -> None:
    """Keep what the reference says of the texts; see `store_reference`."""
    header, make = reference_of_texts(target, project.data.texts.paths, FULL, _whole(project.sizes))
    _store(header, make, project.text_logits, project, say, show)


def _store(
    header: Header, make: MakeRecord, path: Path, project: Project, say: Say, show: Show
) -> None:
    store_reference(
        header,
        make,
        path,
        max_bytes=project.reference_bytes,
        in_flight=_WINDOWS_IN_FLIGHT,
        say=say,
        show=show,
    )


Store: TypeAlias = Callable[[Project, Target, Say, Show], None]

# What measures need of the reference, by the name of the step.
STORES: Final[Mapping[str, Store]] = {_STORE_PROMPTS: store_prompts, _STORE_TEXTS: store_texts}


def prompts_of(data: Data) -> tuple[str, ...]:
    """The prompts on which logits are compared.

    Raises:
        DataError: They cannot be read.
    """
    if data.prompts is not None:
        return read_prompts(data.prompts)
    return tuple(question.text for question in load_questions().questions)


def _same(task: Task) -> Callable[[Target], Task]:
    return lambda target: task


def _speed(sizes: Sizes) -> Callable[[Target], Task]:
    return lambda target: speed.task(target, sizes.load, sizes.seed)


def _qa(project: Project, target: Target) -> Task:
    questions, most = project.data.questions, project.sizes.max_tokens
    return qa.task(questions, target.model_info(), max_tokens=most)


def _logit_mse(project: Project, prompts: tuple[str, ...], target: Target) -> Task:
    known = ReferenceFile(project.prompt_logits)
    return logit_mse.task(target, known, prompts, project.sizes.seed)


def _kl(project: Project, target: Target) -> Task:
    known, sizes = ReferenceFile(project.text_logits), project.sizes
    texts = project.data.texts
    asked = kl.task(target, known, texts.paths, _whole(sizes), sizes.seed)
    return replace(asked, data_source=texts.source)


def _perplexity(project: Project, target: Target) -> Task:
    sizes, texts = project.sizes, project.data.texts
    asked = perplexity.task(target, texts.paths, _overlapping(sizes), sizes.seed)
    return replace(asked, data_source=texts.source)


def _whole(sizes: Sizes) -> Windowing:
    return Windowing(Convention.STRIDED, sizes.window, sizes.window, sizes.windows)


def _overlapping(sizes: Sizes) -> Windowing:
    return Windowing(Convention.STRIDED, sizes.window, max(1, sizes.window // 2), sizes.windows)


def check_sizes(sizes: Sizes) -> None:
    """Raise OptionError if windows or answers are out of range, before anything is started."""
    _whole(sizes)
    qa.check_max_tokens(sizes.max_tokens)
