"""What generated code can do to the machine: each test runs code that tries."""

import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from jang_eval import _sandbox
from jang_eval._errors import SandboxError
from jang_eval._sandbox import (
    Limits,
    ProgramRun,
    Sandbox,
    find_sandbox,
    find_weak_sandbox,
    run_program,
)

LIMITS = Limits(seconds=3.0, cpu_seconds=2, memory_bytes=256 * 2**20, file_bytes=2**20, files=32)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    """The sandbox, where this machine has one."""
    try:
        return find_sandbox(LIMITS)
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


@pytest.fixture
def other_user(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as who is not the superuser has it, where it is the superuser who tests."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("all tests here are of a user who is not the superuser")
    python = "/usr/bin/python3"
    nobody = {"user": 65534, "group": 65534, "extra_groups": list[int]()}
    try:
        ask = [python, "-I", "-S", "-c", "import sys; print(sys.base_prefix)"]
        prefix = subprocess.check_output([*ask], text=True, **nobody).strip()
        subprocess.check_call([python, "-c", f"open({_sandbox.__file__!r})"], **nobody)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no Python that another user can run: {error}")
    monkeypatch.setattr(subprocess, "Popen", partial(subprocess.Popen, **nobody))
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setattr(_sandbox, "_prefixes", lambda: [prefix])
    monkeypatch.setattr(_sandbox, "_own_user", lambda: None)
    try:
        return find_sandbox(LIMITS)
    except SandboxError as error:
        pytest.skip(f"no sandbox for another user here: {error}")


def names_of_processes() -> set[str]:
    names: set[str] = set()
    for file in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.add(file.read_text().strip())
        except OSError:  # it has ended in the meantime
            continue
    return names


# Names the process so that it is found from outside, where it has another number.
CALL_IT = "import ctypes\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"


def call_it(name: str) -> str:
    return CALL_IT.format(name=name)


@pytest.mark.parametrize(
    ("program", "failure", "message"),
    [
        ("assert 1 == 1", "", ""),
        ("assert 1 == 2, 'no'", "assertion", "AssertionError: no"),
        ("def f(:", "syntax", "SyntaxError: invalid syntax"),
        ("x = '\0'", "syntax", "source code"),
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("def f(): f()\nf()", "RecursionError", "maximum recursion depth"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n def __str__(self): 1 / 0\nraise E", "E", "str() failed"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV", "ended by SIGSEGV"),
        ("import os\nos.kill(os.getpid(), 40)", "signal 40", "ended by signal 40"),
    ],
)
def test_a_failure_has_a_kind(sandbox: Sandbox, program: str, failure: str, message: str) -> None:
    run = run_program(sandbox, program)
    assert run.failure == failure
    assert message in run.message


def test_code_finds_the_standard_library_and_its_own_module(sandbox: Sandbox) -> None:
    program = (
        "import bisect, collections, datetime, decimal, hashlib, pickle, random, re, sqlite3\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: 'int'\n"
        "assert pickle.loads(pickle.dumps(Point(1))) == Point(1)\n"
        "assert __name__ != '__main__'\n"
    )
    assert run_program(sandbox, program).failure == ""


def test_code_that_forks_without_end_comes_to_no_more_than_its_processes(sandbox: Sandbox) -> None:
    name = f"fork-{os.getpid()}"
    count = (
        "import os, time\nn = 0\ntry:\n    while n < 1000:\n"
        "        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
        "except OSError: pass\nassert 0, n"
    )
    run = run_program(sandbox, call_it(name) + count)
    assert run.failure == "assertion"
    assert 1 <= int(run.message.split()[-1]) < LIMITS.processes
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert run_program(sandbox, call_it(name) + bomb).failure == "timeout"
    assert name not in names_of_processes()


def test_code_that_fills_memory_is_stopped(sandbox: Sandbox) -> None:
    program = "kept = []\nwhile True: kept.append(bytearray(10_000_000))"
    assert run_program(sandbox, program).failure == "memory"


def test_code_writes_only_in_its_directory_and_only_so_much(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    name = f"jang-eval-test-{os.getpid()}"
    outside = [
        tmp_path / name,
        Path("/tmp") / name,
        Path.home() / name,
        Path(_sandbox.__file__).with_name(name),
        Path(os.__file__).with_name(name),
        Path("/usr/lib") / name,
        Path("/dev/shm") / name,
    ]
    program = f"""
open("inside", "w").write("text")
assert open("inside").read() == "text"
for path in {[str(path) for path in outside]!r}:
    try:
        open(path, "w").write("text")
    except OSError:
        continue
    raise RuntimeError(path)
"""
    assert run_program(sandbox, program) == ProgramRun("", "", pytest.approx(1.5, abs=1.5))
    assert not any(path.exists() for path in outside)
    assert run_program(sandbox, "open('a', 'wb').write(bytes(2**21))").failure == "OSError"
    several = "for n in range(4): open(f'{n}', 'wb').write(bytes(2**19))"
    assert run_program(sandbox, several).failure == "OSError"
    many = "for n in range(100): open(f'{n}', 'w').close()"
    assert run_program(sandbox, many).failure == "OSError"


def test_nothing_that_code_wrote_is_there_for_the_next(sandbox: Sandbox) -> None:
    program = "import os\nassert os.listdir() == []\nopen('here', 'w').close()"
    assert [run_program(sandbox, program).failure for _ in range(2)] == ["", ""]


# Of whatever is open: what it is, and whether `..` of it can be read and written.
WAYS_OUT = """
import os, stat
null, found = os.stat(0), []
for opened in range(1 << 16):
    try:
        status = os.fstat(opened)
    except OSError:
        continue
    try:
        os.listdir(os.open("..", os.O_RDONLY, dir_fd=opened))
    except OSError as error:
        found.append((opened, stat.S_ISCHR(status.st_mode), stat.S_ISFIFO(status.st_mode)))
    else:
        raise RuntimeError(f"descriptor {opened} leads out")
assert found == [(0, True, False), (1, True, False), (2, True, False), (3, False, True)], found
assert os.getcwd() == "/code" and os.path.samefile("/", "/..")
"""


def test_code_inherits_nothing_but_null_and_the_pipe_that_says_its_end(sandbox: Sandbox) -> None:
    with open(os.devnull) as _, socket.socket() as inherited:
        inherited.set_inheritable(True)
        run = run_program(sandbox, WAYS_OUT)
    assert (run.failure, run.message) == ("", "")


def test_so_it_is_where_who_starts_it_is_not_the_superuser(other_user: Sandbox) -> None:
    run = run_program(other_user, WAYS_OUT + "assert os.getuid() == 65534")
    assert (run.failure, run.message) == ("", "")


def test_a_descriptor_that_leads_out_is_found_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path
) -> None:
    child = Path(_sandbox.__file__).with_name("_sandbox_child.py").read_text()
    careless = tmp_path / "child.py"
    careless.write_text(child.replace("    _close_inherited(", "    (lambda **_: None)("))
    assert careless.read_text() != child
    monkeypatch.setattr(_sandbox, "_CHILD", careless)
    with pytest.raises(SandboxError, match="a program can get out"):
        find_sandbox(LIMITS)


def test_code_reaches_no_network(sandbox: Sandbox) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract = f"\0jang-eval-test-{os.getpid()}"
        unix.bind(abstract)
        unix.listen()
        program = f"""
import socket
for family, kind, address in (
    (socket.AF_INET, socket.SOCK_STREAM, {tcp.getsockname()!r}),
    (socket.AF_INET, socket.SOCK_DGRAM, {udp.getsockname()!r}),
    (socket.AF_UNIX, socket.SOCK_STREAM, {abstract!r}),
):
    try:
        with socket.socket(family, kind) as opened:
            opened.settimeout(1)
            opened.connect(address)
            opened.send(b"out")
    except OSError:
        continue
    raise RuntimeError(address)
"""
        assert run_program(sandbox, program).failure == ""
        for listener in (tcp, udp, unix):
            listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            tcp.accept()
        with pytest.raises(BlockingIOError):
            udp.recv(10)
        with pytest.raises(BlockingIOError):
            unix.accept()


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(600)",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "while True: print('x' * 10_000)",
        "import os\nwhile True:\n    for n in range(32):\n"
        "        try: os.write(n, b'x' * 100_000)\n        except OSError: pass",
    ],
    ids=["loops", "sleeps", "blocks signals", "catches all", "prints", "writes to everything"],
)
def test_code_without_end_is_ended(sandbox: Sandbox, program: str) -> None:
    name = f"endless-{os.getpid()}"
    begun = time.monotonic()
    run = run_program(sandbox, call_it(name) + program)
    assert run.failure in ("timeout", *(["SIGKILL"] if "sigmask" in program else []))
    assert len(run.message) < 100
    # Those that are here on a busy machine come besides.
    assert LIMITS.cpu_seconds <= time.monotonic() - begun < LIMITS.seconds + 10
    assert name not in names_of_processes()


def test_a_daemon_is_dead_afterwards(sandbox: Sandbox) -> None:
    name = f"daemon-{os.getpid()}"
    program = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        " + call_it(name).replace("\n", "\n        ") + "time.sleep(30)\n    os._exit(0)\n"
        "time.sleep(1)"
    )
    assert run_program(sandbox, program).failure == ""
    assert name not in names_of_processes()


def test_code_sees_no_environment_but_an_empty_one(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANG_TEST_SECRET", "8c1f")
    program = """
import ctypes, os, sys
assert not os.environ, os.environ
read = ctypes.CDLL(None).getenv
read.restype = ctypes.c_char_p
assert read(b"JANG_TEST_SECRET") is None
assert not os.path.exists("/proc"), "where the environments of others are"
assert sys.stdin.read() == ""
"""
    assert run_program(sandbox, program).failure == ""


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "import os\nos._exit(0)",
        "import ctypes\nctypes.CDLL(None).exit(0)",
        "import os\nos.closerange(0, 100)\nos._exit(0)",
        # In the place of the supervisor's child.
        *(
            "import os\nfor n in range(3, 32):\n"
            f"    try: os.write(n, {said!r})\n    except OSError: pass\nos._exit(0)"
            for said in (b'{"failure": "", "message": ""}', b'{"failure": ""}', b"[1]", b"[" * 4000)
        ),
        "raise type('', (Exception,), {})",
    ],
)
def test_code_that_ends_before_its_tests_has_not_passed(sandbox: Sandbox, program: str) -> None:
    run = run_program(sandbox, program + "\nassert False")
    assert run.failure == "exit"


@pytest.mark.parametrize("target", ["os.getppid()", "0", "-1", "1"])
def test_code_that_kills_its_parent_kills_nothing_but_its_own(
    sandbox: Sandbox, target: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        program = f"""
import os
for each in ({target}, {other.pid}, {os.getpid()}):
    try:
        os.kill(each, 9)
    except OSError:
        pass
os._exit(0)
"""
        assert run_program(sandbox, program).failure in ("exit", "SIGKILL")
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0
    assert run_program(sandbox, "").failure == ""


def test_code_gets_no_rights_back(sandbox: Sandbox) -> None:
    program = """
import ctypes, os
library = ctypes.CDLL(None)
assert os.getuid() != 0
assert library.unshare(0x10000000) != 0, "a user namespace of its own"
assert library.unshare(0x20000) != 0, "mounts of its own"
assert library.mount(b"tmpfs", b"/code", b"tmpfs", 0, None) != 0, "a mount"
assert library.chroot(b".") != 0, "another root"
"""
    run = run_program(sandbox, program)
    assert (run.failure, run.message) == ("", "")


def test_a_sandbox_that_lets_code_out_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "Sandbox", lambda namespaces, limits: Sandbox(False, limits))
    with pytest.raises(SandboxError, match=r"^found .* in the sandbox, expected none$"):
        find_sandbox(LIMITS)


def test_where_there_are_no_namespaces_there_is_no_sandbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="found no namespaces on darwin, expected Linux"):
        find_sandbox(LIMITS)


def test_the_weak_sandbox_has_limits_too() -> None:
    try:
        weak = find_weak_sandbox(LIMITS)
    except SandboxError as error:
        pytest.skip(f"no weak sandbox here: {error}")
    assert "can use the network" in weak.description
    assert run_program(weak, "assert True").failure == ""
    assert run_program(weak, "import os\nos._exit(0)").failure == "exit"
    assert run_program(weak, "import os\nos.kill(0, 9)").failure == "exit"
    assert run_program(weak, "while True: pass").failure == "timeout"
    if sys.platform == "linux":
        assert run_program(weak, "x = [0] * 10**9").failure == "memory"
