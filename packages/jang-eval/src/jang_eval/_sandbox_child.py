"""Runs one program inside the sandbox; `_sandbox.py` starts it with the job as JSON on stdin.

Three processes. The first makes the namespaces. The second, the supervisor, is process 1 in them:
the kernel ends all others with it, and none of them can signal it. It adds up the memory of all
others. The third is limited, has no rights left, and runs the program. Without namespaces the first
is the supervisor.

Nothing of jang_eval is imported here: this runs in a Python with the standard library alone.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from traceback import format_exception_only
from types import ModuleType
from typing import Any, Final

# From linux/sched.h, sys/mount.h, linux/mount.h, sys/prctl.h and linux/capability.h.
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC = 2, 4, 8, 0x1000, 0x4000
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
_SYS_CLOSE_RANGE, _SYS_MOUNT_SETATTR = 436, 442  # the same on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522

# Where the standard library's own libraries are; the interpreter's directories come with the job.
_LIBRARIES: Final = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/etc/ld.so.cache",
)
_INNER_ROOT: Final = "/inner"
_PROC_DIRECTORY: Final = "/proc"
_CODE_DIRECTORY: Final = "/code"
# Where the program's process says how it ended: all that it has beside 0, 1 and 2, which are null.
_SAYS: Final = 3
_DESCRIPTORS_END: Final = 2**32 - 1
_SAID_MAX, _STATUS_MAX = 4096, 1 << 14
_TEXT_MAX: Final = 500
_KINDS: Final = {"AssertionError": "assertion", "MemoryError": "memory", "SystemExit": "exit"}
_POLL_SECONDS: Final = 0.005
# Of a processor, for adding up memory; where /proc has all the machine's processes it takes long.
_WATCH_SHARE: Final = 0.2
# Lines of /proc/PID/status. Mapped files are not among them: the libraries' are everybody's.
_MEMORY_FIELDS: Final = (b"RssAnon", b"RssShmem", b"VmSwap")


def main() -> None:
    """Take the job from stdin, and write what came of it to stdout."""
    job = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDWR)
    processes = _open_directory(_PROC_DIRECTORY) if sys.platform == "linux" else None
    try:
        if job["namespaces"]:
            _enter_namespaces()
            supervisor = os.fork()
            if supervisor:
                os.waitpid(supervisor, 0)
                os._exit(0)
            _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # The program's group, which it may kill, is not that of the first process.
            os.setsid()
            processes = _instead(processes, _build_root(job))
        elif job["user"] is not None:
            os.chown(job["directory"], job["user"], job["user"])
        answer = _supervise(job, null, processes)
    except (OSError, ValueError) as error:
        answer = {"trouble": str(error)}
    os.write(1, json.dumps(answer).encode())
    # Whatever the program left behind goes too: with process 1, or as one group.
    os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _call(name: str, *arguments: int | bytes | None) -> None:
    """Calls a function of the C library; raises OSError where it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    converted = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if getattr(library, name)(*converted) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _enter_namespaces() -> None:
    """Leaves the network, the processes, the mounts; the superuser needs no user namespace."""
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _call("unshare", flags)
        return
    _call("unshare", flags | _CLONE_NEWUSER)
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, content in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


def _build_root(job: dict[str, Any]) -> int | None:
    """Makes a root with Python and its libraries, read-only, and one directory to write to.

    Returns:
        A descriptor of a /proc that has the namespace's processes alone; None where there may be
        none, which is so in most containers.
    """
    root, limits = job["directory"], job["limits"]
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    plain = _MS_NOSUID | _MS_NODEV
    _call("mount", b"tmpfs", root.encode(), b"tmpfs", plain, b"size=1m,mode=755")
    inner = root + _INNER_ROOT
    os.mkdir(inner)
    for path in (*job["prefixes"], *_LIBRARIES):
        _expose(inner, path)
    directory = inner + _CODE_DIRECTORY
    os.mkdir(directory)
    options = f"size={limits['file_bytes']},nr_inodes={limits['files']},mode=700"
    _call("mount", b"tmpfs", directory.encode(), b"tmpfs", plain | _MS_NOEXEC, options.encode())
    if job["user"] is not None:
        os.chown(directory, job["user"], job["user"])
    processes = _mount_proc(root + _PROC_DIRECTORY)
    _seal(root, 0)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    # Who is in a chroot can make no user namespace, in which he would have rights again.
    os.chroot(_INNER_ROOT)
    os.chdir("/")
    job["directory"] = _CODE_DIRECTORY
    return processes


def _mount_proc(path: str) -> int | None:
    os.mkdir(path)
    try:
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        _call("mount", b"proc", path.encode(), b"proc", flags, None)
    except OSError:
        return None
    processes = _open_directory(path)
    # The descriptor keeps it; nothing finds it by a path.
    _call("umount2", path.encode(), _MNT_DETACH)
    return processes


def _open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def _instead(descriptor: int | None, better: int | None) -> int | None:
    """The better one where there is one, and then the other closed: it leads out of the root."""
    if better is None:
        return descriptor
    if descriptor is not None:
        os.close(descriptor)
    return better


def _expose(root: str, path: str) -> None:
    """Shows a file or directory at the same path in the new root, read-only."""
    inside = root + path
    if os.path.lexists(inside) or not os.path.exists(path):
        return
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        # Such as /lib, which is usr/lib.
        os.symlink(os.readlink(path), inside)
        return
    if os.path.isdir(path):
        os.mkdir(inside)
    else:
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY))
    _call("mount", path.encode(), inside.encode(), None, _MS_BIND | _MS_REC, None)
    _seal(inside, _AT_RECURSIVE)


def _seal(path: str, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(
        _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV, 0, 0, 0
    )
    _call("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, bytes(attributes), 32)


def _supervise(job: dict[str, Any], null: int, processes: int | None) -> dict[str, Any]:
    """Runs the program in a child until it ends, or its time or its memory does."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.dup2(writer, _SAYS, inheritable=False)
            os.write(_SAYS, _confined_run(job))
        finally:
            # Nothing that the program has left to be done at exit is done.
            os._exit(0)
    os.close(writer)
    begun = time.monotonic()
    stopped, status = _wait(child, job["limits"], processes)
    if stopped:
        os.kill(child, signal.SIGKILL)
    os.set_blocking(reader, False)
    said = b""
    with suppress(BlockingIOError):
        said = os.read(reader, _SAID_MAX)
    return {
        "said": said.decode(errors="replace"),
        "stopped": stopped,
        "status": status,
        "seconds": time.monotonic() - begun,
    }


def _confined_run(job: dict[str, Any]) -> bytes:
    try:
        _confine(job)
    except (OSError, ValueError) as error:
        # With the token, so that no program can say so.
        return json.dumps({"trouble": str(error), "token": job["token"]}).encode()
    return _execute(job["program"], job["token"])


def _wait(child: int, limits: dict[str, Any], processes: int | None) -> tuple[str, int]:
    """Why the child had to be stopped, or "" and its exit status, below 0 for a signal's number."""
    deadline = time.monotonic() + limits["seconds"]
    while (now := time.monotonic()) < deadline:
        if processes is not None and _memory_below(processes) > limits["memory_bytes"]:
            return "memory", 0
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return "", os.waitstatus_to_exitcode(status)
        time.sleep(max(_POLL_SECONDS, (time.monotonic() - now) / _WATCH_SHARE))
    return "timeout", 0


def _memory_below(processes: int) -> int:
    """Bytes that this process's descendants have; what they share counts for each of them."""
    own = int(os.readlink("self", dir_fd=processes))
    parents: dict[int, int] = {}
    memory: dict[int, int] = {}
    for name in os.listdir(processes):
        # Not those that have ended in the meantime, nor those that are nobody's business.
        with suppress(OSError):
            if name.isdecimal():
                fields = _status(processes, name)
                parents[int(name)] = int(fields[b"PPid"])
                kilobytes = (fields.get(each, b"0 kB").split()[0] for each in _MEMORY_FIELDS)
                memory[int(name)] = sum(map(int, kilobytes)) * 1024
    below = {own}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sum(memory[pid] for pid in below - {own})


def _status(processes: int, pid: str) -> dict[bytes, bytes]:
    """The lines of a process's status in a /proc."""
    file = os.open(f"{pid}/status", os.O_RDONLY, dir_fd=processes)
    try:
        lines = os.read(file, _STATUS_MAX).splitlines()
    finally:
        os.close(file)
    return {name: value for name, _, value in (line.partition(b":") for line in lines)}


def _confine(job: dict[str, Any]) -> None:
    """Goes to the directory, closes what is open, gives up every right, and takes the limits."""
    os.chdir(job["directory"])
    _close_inherited(has_close_range=job["namespaces"])
    os.environ.clear()
    if job["user"] is not None:
        os.setgroups([])
        os.setresgid(job["user"], job["user"], job["user"])
        os.setresuid(job["user"], job["user"], job["user"])
    if job["namespaces"]:
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        _call("capset", bytes(header), bytes(24))
    if sys.platform == "linux":
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if job["filter"] is not None:
        _forbid_calls(bytes.fromhex(job["filter"]))
    limits = job["limits"]
    wanted = {
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["files"],
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform != "darwin":  # macOS has it, and does not keep to it
        wanted[resource.RLIMIT_AS] = limits["memory_bytes"]
    for name, value in wanted.items():
        resource.setrlimit(name, (value, value))
    # The softer limit's signal, SIGXCPU, says why; SIGKILL comes to who does not hear it.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))


def _close_inherited(*, has_close_range: bool) -> None:
    """Closes what is open above `_SAYS`: a directory from outside would lead out of any root."""
    if has_close_range:
        # Not `os.closerange`, which in some builds of Python closes billions one by one.
        _call("syscall", _SYS_CLOSE_RANGE, _SAYS + 1, _DESCRIPTORS_END, 0)
        return
    for name in os.listdir("/dev/fd"):
        # That of the listing itself is closed by now.
        with suppress(OSError):
            if int(name) > _SAYS:
                os.close(int(name))


def _forbid_calls(code: bytes) -> None:
    """Has the kernel refuse some system calls to this process and all that it starts."""
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(instructions))
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)


def _execute(program: str, token: str) -> bytes:
    """The token where the program ran to its end, otherwise how it failed."""
    # A module that can be found by its name, which dataclasses and pickle do; not __main__.
    module = ModuleType("candidate")
    sys.modules["candidate"] = module
    try:
        code = compile(program, "<program>", "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: it holds a zero byte
        return _report("syntax", error)
    try:
        exec(code, vars(module))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
        # What filled the memory hangs on these.
        error.__traceback__ = None
        vars(module).clear()
        name = type(error).__name__
        return _report(_KINDS.get(name, name), error)
    return token.encode()


def _report(failure: str, error: BaseException) -> bytes:
    message = format_exception_only(error)[-1].strip()
    return json.dumps({"failure": failure[:_TEXT_MAX], "message": message[:_TEXT_MAX]}).encode()


if __name__ == "__main__":
    main()
