"""How much memory generated code can have: each test runs code that wants more."""

import os
import sys
from dataclasses import replace

import pytest

from jang_eval import _sandbox
from jang_eval._errors import SandboxError
from jang_eval._forbidden_calls import build_filter
from jang_eval._sandbox import Limits, Sandbox, find_sandbox, find_weak_sandbox, run_program

LIMITS = Limits(seconds=10.0, cpu_seconds=5, memory_bytes=128 * 2**20)
# Each child has less than the limit; all have nearly twice as much.
FORK_AND_FILL = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        kept = bytearray(b"x") * (30 * 2**20)
        time.sleep(60)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    """The sandbox, where this machine has one."""
    try:
        return find_sandbox(LIMITS)
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


def test_children_together_have_no_more_memory_than_one(sandbox: Sandbox) -> None:
    run = run_program(sandbox, FORK_AND_FILL)
    assert (run.failure, run.message) == (
        "memory",
        "its processes had more than 134217728 bytes together",
    )
    assert run.seconds < LIMITS.seconds


def test_memory_of_daemons_counts_too(sandbox: Sandbox) -> None:
    program = (
        "import os, time\nif os.fork(): time.sleep(60)\nos.setsid()\nif os.fork(): os._exit(0)"
    )
    assert run_program(sandbox, program + FORK_AND_FILL).failure == "memory"


def test_memory_that_processes_share_counts(sandbox: Sandbox) -> None:
    program = """
import mmap, os, time
for _ in range(3):
    shared = mmap.mmap(-1, 50 * 2**20)
    shared.write(b"x" * len(shared))
    if os.fork(): time.sleep(60)
    shared.close()
"""
    assert run_program(sandbox, program).failure == "memory"


def test_a_little_memory_in_several_processes_is_allowed(sandbox: Sandbox) -> None:
    program = """
import os
for _ in range(3):
    if os.fork() == 0:
        kept = bytearray(b"x") * (10 * 2**20)
        os._exit(0)
for _ in range(3): assert os.wait()[1] == 0
"""
    run = run_program(sandbox, program)
    assert (run.failure, run.message) == ("", "")


@pytest.mark.parametrize(
    "call",
    [
        "library.shmget(0, 2**20, 0o1600)",
        "library.msgget(0, 0o1600)",
        "library.semget(0, 1000, 0o1600)",
        "library.mq_open(b'/kept', 0o102, 0o600, None)",
        "library.memfd_create(b'kept', 0)",
        "library.syscall(447, 0)",
        "library.socket(40, 1, 0)",
        "library.vmsplice(1, None, 0, 0)",
        "library.syscall(425, 1, bytes(200))",
    ],
    ids=[
        "SysV memory",
        "SysV messages",
        "SysV semaphores",
        "message queues",
        "memfd",
        "secret memfd",
        "vsock",
        "pages in pipes",
        "io_uring",
    ],
)
def test_code_keeps_no_memory_outside_of_its_processes(sandbox: Sandbox, call: str) -> None:
    program = f"""
import ctypes
library = ctypes.CDLL(None, use_errno=True)
found = {call}
assert (found, ctypes.get_errno()) == (-1, 1), (found, ctypes.get_errno())
"""
    run = run_program(sandbox, program)
    assert (run.failure, run.message) == ("", "")


def test_code_may_still_wait_for_events(sandbox: Sandbox) -> None:
    program = "import asyncio\nassert asyncio.run(asyncio.sleep(0, 7)) == 7"
    run = run_program(sandbox, program)
    assert (run.failure, run.message) == ("", "")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="there is one ABI here")
def test_code_gets_around_no_call_by_another_abi(sandbox: Sandbox) -> None:
    program = """
import ctypes
library = ctypes.CDLL(None, use_errno=True)
assert library.syscall(0x40000000 + 319, b"kept", 0) == -1
assert ctypes.get_errno() == 1
"""
    run = run_program(sandbox, program)
    assert (run.failure, run.message) == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what processes have")
def test_the_weak_sandbox_bounds_the_memory_of_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another user might not be let into this Python's directory.
    monkeypatch.setattr(_sandbox, "_own_user", lambda: None)
    weak = find_weak_sandbox(replace(LIMITS, processes=4096))
    assert run_program(weak, FORK_AND_FILL).failure == "memory"


def test_a_machine_whose_calls_are_not_known_has_no_sandbox() -> None:
    with pytest.raises(SandboxError, match=r"^found machine mips, expected x86_64 or aarch64$"):
        build_filter("mips")
