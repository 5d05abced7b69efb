"""System calls that programs in the sandbox may not make, as a filter for the kernel.

Each of them keeps memory that is in no process's address space, and so escapes what bounds that, or
opens a way out that namespaces leave open (AF_VSOCK). Filters are classic BPF over `struct
seccomp_data`; see seccomp(2) and linux/filter.h.
"""

import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jang_eval._errors import SandboxError

# Offsets in `struct seccomp_data`.
_NUMBER, _ARCHITECTURE = 0, 4
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000  # 1 is EPERM
# Numbers from here on are those of the x32 ABI, which x86_64 has besides.
_X32: Final = 0x40000000


@dataclass(frozen=True)
class _Machine:
    """How a processor's kernel counts: AUDIT_ARCH_* of linux/audit.h, numbers of asm/unistd.h."""

    architecture: int
    numbers: Mapping[str, int]


_EVERYWHERE: Final = {"io_uring_setup": 425, "landlock_create_ruleset": 444, "memfd_secret": 447}
_MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E,
        _EVERYWHERE
        | {
            "shmget": 29,
            "socket": 41,
            "setsockopt": 54,
            "semget": 64,
            "msgget": 68,
            "mq_open": 240,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "vmsplice": 278,
            "perf_event_open": 298,
            "memfd_create": 319,
            "bpf": 321,
            "userfaultfd": 323,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        _EVERYWHERE
        | {
            "vmsplice": 75,
            "mq_open": 180,
            "msgget": 186,
            "semget": 190,
            "shmget": 194,
            "socket": 198,
            "setsockopt": 208,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "perf_event_open": 241,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
        },
    ),
}


def build_filter(machine: str = platform.machine()) -> bytes:
    """The filter: EPERM for these calls, and an end to who calls as another architecture.

    Args:
        machine: As `platform.machine` names it.

    Returns:
        `struct sock_filter` one after the other.

    Raises:
        SandboxError: The machine's numbers are not known here.
    """
    known = _MACHINES.get(machine)
    if known is None:
        raise SandboxError(f"found machine {machine}, expected {' or '.join(_MACHINES)}")
    numbers = sorted(known.numbers.values())
    # Jumps count the instructions between: the last two are what they lead to.
    tests = [
        (_JUMP_IF_AT_LEAST, len(numbers) + 1, 0, _X32),
        *((_JUMP_IF_EQUAL, len(numbers) - n, 0, number) for n, number in enumerate(numbers)),
    ]
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, known.architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *tests,
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *each) for each in instructions)
