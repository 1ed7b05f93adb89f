"""Bounds that a process puts on itself before it touches foreign bytes, and can never take off again.

The decoders of compressed films are C and C++ code, and every such decoder has had its hole. A process that is bound
like this can compute, and read files, and nothing else: no network, no program started, no file written, no other
process touched; memory and processor time are limited by the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys

_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_FILTER_MODE, _ALL_THREADS = 1, 1
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

# Names and numbers of the kernel's calls (arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h).
# io_uring opens sockets past all others; open_by_handle_at leaves every folder.
_FORBIDDEN: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "bind": 49, "listen": 50, "socketpair": 53,
        "execve": 59, "kill": 62, "ptrace": 101, "mount": 165, "tkill": 200, "unshare": 272, "accept4": 288,
        "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321,
        "execveat": 322, "pidfd_send_signal": 424, "io_uring_setup": 425,
    },
    "aarch64": {
        "mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130, "socket": 198, "socketpair": 199,
        "bind": 200, "listen": 201, "accept": 202, "connect": 203, "sendto": 206, "execve": 221, "accept4": 242,
        "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280,
        "execveat": 281, "pidfd_send_signal": 424, "io_uring_setup": 425,
    },
}  # fmt: skip

# Classic BPF as seccomp runs it (linux/filter.h, linux/seccomp.h).
_LOAD, _IS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def die_with(parent: int) -> None:
    """Have this process killed when its parent goes, whatever the parent dies of; Linux only, nothing elsewhere.

    Args:
        parent: its process id, as the parent knows it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # It went while we were on our way.
            os.kill(os.getpid(), signal.SIGKILL)


def bound_memory(more_bytes: int) -> None:
    """Let this process take no more than so many bytes beside those that it has mapped by now; Linux only.

    What it asks for beyond is a MemoryError, or a C++ library's own failure.
    """
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", "rb") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more_bytes, mapped + more_bytes))


def bound_time(seconds: float) -> None:
    """Have this process killed when it has computed for so many seconds more, all threads counted."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def confine() -> bool:
    """Give up network, programs, other processes and the writing of files, for good and in all threads.

    Returns:
        Whether the kernel forbids it all; False on a system other than Linux on x86-64 or ARM64, where only the
        writing of files is forbidden.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _FORBIDDEN:
        return False
    program = _program(_FORBIDDEN[machine], _AUDIT[machine])
    held = ctypes.create_string_buffer(program, len(program))
    given = _Program(len(program) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return int(libc.syscall(_SECCOMP[machine], _FILTER_MODE, _ALL_THREADS, ctypes.byref(given))) == 0


def escapes() -> tuple[str, ...]:
    """Try what a bound process must not be able to do, and return what went well; nothing where all is as it should.

    It is called in the process itself, after `confine`.
    """
    found = []
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        found.append("open a connection")
    with contextlib.suppress(OSError):
        subprocess.run([sys.executable, "-c", ""], check=False)
        found.append("start a program")
    with contextlib.suppress(OSError):
        os.kill(os.getppid(), 0)
        found.append("touch another process")
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 0:
        found.append("write a file")
    return tuple(found)


def _program(forbidden: dict[str, int], architecture: int) -> bytes:
    """Return a filter: another architecture kills, a forbidden call is refused with EACCES, the rest is allowed."""
    numbers = sorted(forbidden.values())
    refuse_at = 5 + len(numbers)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, refuse_at - 4, 0, _X32),
        *((_IS, refuse_at - 5 - index, 0, number) for index, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE | errno.EACCES),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
