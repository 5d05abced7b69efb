"""Runs programs that nobody has read, where they can do no harm.

On Linux a program gets namespaces of its own: no network, no other processes, read-only libraries
of Python, one directory in memory, and fewer system calls; see `_sandbox_child.py`. Elsewhere, or
where the kernel does not allow that, there are limits alone, and only if the user says so.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

from jang_eval._errors import SandboxError
from jang_eval._forbidden_calls import build_filter

_CHILD: Final = Path(__file__).with_name("_sandbox_child.py")
# What starting and ending may take on a busy machine, besides the program's own time.
_OVERHEAD_SECONDS: Final = 60.0
# Users of their own for programs, if we are the superuser; nobody has such numbers.
_FIRST_USER, _USERS = 1_900_000_000, 1 << 24
_SIGNALS: Final = {each.value: each.name for each in signal.Signals}
_ANSWER: Final = {"said", "stopped", "status", "seconds"}


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        seconds: Of wall time.
        cpu_seconds: Of each process.
        memory_bytes: Of all processes together (what they share counts for each of them; on Linux
            alone), and address space of each.
        processes: And threads, together.
        file_bytes: Of all files in its directory; without namespaces, of each file.
        files: In its directory, and open in each process.
    """

    seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 * 2**20
    processes: int = 16
    file_bytes: int = 16 * 2**20
    files: int = 64


@dataclass(frozen=True)
class Sandbox:
    """How programs are run.

    Attributes:
        namespaces: Whether they have no network, and no files and processes but their own;
            otherwise there are limits alone.
        limits: What each may use.
    """

    namespaces: bool
    limits: Limits

    @property
    def name(self) -> str:
        """What it is, as results keep it."""
        return "namespaces" if self.namespaces else "limits alone"

    @property
    def description(self) -> str:
        """What keeps a program in, in a line for the user."""
        if self.namespaces:
            return "generated code runs in Linux namespaces: no network, no files but its own"
        return (
            "generated code runs with limits alone: it can use the network, and read and write "
            "what this user can"
        )


@dataclass(frozen=True)
class ProgramRun:
    """What came of a program.

    Attributes:
        failure: Empty where it ran to its end; "assertion", "syntax", "memory", "timeout", "exit"
            (it ended itself before its end), a signal's name, or the name of an exception.
        message: The error's last line.
        seconds: Of wall time, without those of starting the sandbox.
    """

    failure: str
    message: str
    seconds: float


def find_sandbox(limits: Limits | None = None) -> Sandbox:
    """Find out whether this machine has a sandbox that keeps programs in.

    It is tried: a program in it must find Python's library, and must not reach a listener of ours
    nor write to a directory of ours, nor keep memory that is in no process, nor have anything open
    from outside but null and the pipe on which its end is said.

    Raises:
        SandboxError: There is none; the message says why.
    """
    sandbox = Sandbox(namespaces=True, limits=limits or Limits())
    if sys.platform != "linux":
        raise SandboxError(f"found no namespaces on {sys.platform}, expected Linux")
    with (
        TemporaryDirectory(prefix="jang-eval-") as directory,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        _check(
            sandbox, _PROBE.format(file=f"{directory}/probe", address=listener.getsockname()[:2])
        )
    return sandbox


def find_weak_sandbox(limits: Limits | None = None) -> Sandbox:
    """Find out whether programs run here with limits alone.

    Raises:
        SandboxError: They do not; the message says why.
    """
    if os.name != "posix":
        raise SandboxError(f"found {sys.platform}, expected a system with limits for processes")
    sandbox = Sandbox(namespaces=False, limits=limits or Limits())
    _check(sandbox, "import decimal, hashlib, random")
    return sandbox


# Formatted with the file and the address that must be out of reach.
_PROBE: Final = """
import decimal, hashlib, os, random, socket
from functools import partial
for attempt in (
    lambda: open({file!r}, "w"),
    lambda: socket.create_connection({address!r}, timeout=1),
    lambda: os.memfd_create("kept"),
    *(partial(os.open, "..", os.O_RDONLY, dir_fd=opened) for opened in range(4)),
    *(partial(os.fstat, opened) for opened in range(4, 4096)),
):
    try:
        attempt()
    except OSError:
        continue
    raise RuntimeError("a program can get out, or keep memory")
"""


def _check(sandbox: Sandbox, program: str) -> None:
    run = run_program(sandbox, program)
    if run.failure:
        raise SandboxError(f"found {run.failure} ({run.message}) in the sandbox, expected none")


def run_program(sandbox: Sandbox, program: str) -> ProgramRun:
    """Run a Python program to its end.

    That it got there is proven by a token that is drawn for each run: ending early with status 0
    is not enough. A program that searches the interpreter's own memory for the token can find it.

    Raises:
        SandboxError: The sandbox could not be made.
    """
    token = secrets.token_hex(16)
    with TemporaryDirectory(prefix="jang-eval-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o700)
        job = {
            "program": program,
            "token": token,
            "directory": directory,
            "namespaces": sandbox.namespaces,
            "filter": build_filter().hex() if sandbox.namespaces else None,
            "user": _own_user(),
            "prefixes": _prefixes(),
            "limits": asdict(sandbox.limits),
        }
        answer = _run_child(json.dumps(job).encode(), sandbox.limits.seconds + _OVERHEAD_SECONDS)
    if "trouble" in answer:
        raise SandboxError(f"cannot be made: {answer['trouble']}")
    return _judged(answer, token, sandbox.limits)


def _own_user() -> int | None:
    """A user that owns nothing and that no other program has, if we may choose one."""
    return _FIRST_USER + secrets.randbelow(_USERS) if os.geteuid() == 0 else None


def _prefixes() -> Sequence[str]:
    """Where the interpreter and its standard library are, the outermost directory first."""
    return sorted({os.path.realpath(each) for each in (sys.base_prefix, sys.base_exec_prefix)})


def _run_child(job: bytes, seconds: float) -> dict[str, Any]:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,
    ) as child:
        output = b""
        try:
            output, _ = child.communicate(job, timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # It ends its own group when it has written.
            if not output:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
    return _answer(output)


def _answer(output: bytes) -> dict[str, Any]:
    """What the supervisor wrote; without namespaces a program can kill it or write in its place."""
    try:
        answer = cast(object, json.loads(output))
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and ("trouble" in answer or answer.keys() >= _ANSWER):
        return cast(dict[str, Any], answer)
    return {"said": "", "stopped": "", "status": 0, "seconds": 0.0}


_STOPPED: Final = {
    "timeout": "still running after {limits.seconds:g} s",
    "memory": "its processes had more than {limits.memory_bytes} bytes together",
}


def _judged(answer: dict[str, Any], token: str, limits: Limits) -> ProgramRun:
    said, status, seconds = answer["said"], answer["status"], round(answer["seconds"], 3)
    # Without namespaces a program may have written anything there.
    stopped = str(answer["stopped"])
    if stopped in _STOPPED:
        return ProgramRun(stopped, _STOPPED[stopped].format(limits=limits), seconds)
    if said.startswith(token):
        return ProgramRun("", "", seconds)
    if status == -signal.SIGXCPU:
        return ProgramRun("timeout", f"more than {limits.cpu_seconds} s of CPU time", seconds)
    if status < 0:
        name = _SIGNALS.get(-status, f"signal {-status}")
        return ProgramRun(name, f"ended by {name}", seconds)
    try:
        report = json.loads(said)
        if report.get("token") == token:
            raise SandboxError(f"cannot be made: {report['trouble']}")
        # An exception's name may be empty, and a program may write here itself: only the token
        # says that it passed.
        return ProgramRun(str(report["failure"]) or "exit", str(report["message"]), seconds)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        # It said nothing, or not what the supervisor's child says.
        return ProgramRun("exit", f"ended with status {status} before the tests did", seconds)
