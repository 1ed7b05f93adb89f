"""Bounds that a process puts on itself before it touches foreign bytes, and can never take off again.

The decoders of compressed films are C and C++ code, and every such decoder has had its hole. A process that is bound
like this can compute, and read files, and nothing else: no network, no program started, no file made or changed, no
other process touched or looked into; memory and processor time are limited by the kernel.
"""

from __future__ import annotations

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
from collections.abc import Callable

_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_FILTER_MODE, _ALL_THREADS = 1, 1
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

# Names and numbers of the kernel's calls (arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h).
# io_uring opens files and sockets past all others, openat2 hides its flags in memory, open_by_handle_at leaves every
# folder.
_FORBIDDEN: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "bind": 49, "listen": 50, "socketpair": 53,
        "execve": 59, "kill": 62, "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85,
        "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94,
        "ptrace": 101, "utime": 132, "mknod": 133, "mount": 165, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
        "removexattr": 197, "tkill": 200, "utimes": 235, "mkdirat": 258, "mknodat": 259, "fchownat": 260,
        "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "fchmodat": 268, "unshare": 272,
        "utimensat": 280, "fallocate": 285, "accept4": 288, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "renameat2": 316, "bpf": 321, "execveat": 322,
        "pidfd_send_signal": 424, "io_uring_setup": 425, "openat2": 437, "pidfd_getfd": 438, "fchmodat2": 452,
    },
    "aarch64": {
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "mknodat": 33, "mkdirat": 34, "unlinkat": 35,
        "symlinkat": 36, "linkat": 37, "renameat": 38, "mount": 40, "truncate": 45, "ftruncate": 46, "fallocate": 47,
        "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "unshare": 97, "ptrace": 117,
        "kill": 129, "tkill": 130, "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202,
        "connect": 203, "sendto": 206, "execve": 221, "accept4": 242, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "renameat2": 276, "bpf": 280, "execveat": 281,
        "pidfd_send_signal": 424, "io_uring_setup": 425, "openat2": 437, "pidfd_getfd": 438, "fchmodat2": 452,
    },
}  # fmt: skip
# Calls that open a file: allowed to read. Number to the offset of the flags among what the filter sees.
_OPENING = {"x86_64": {2: 24, 257: 32}, "aarch64": {56: 32}}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Classic BPF as seccomp runs it (linux/filter.h, linux/seccomp.h).
_LOAD, _IS, _AT_LEAST, _ANY_OF, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_3 = 0x20080522
_DUMPABLE = 4


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


def keep_private() -> None:
    """Let no other process of this user look into this one's memory and environment; Linux only, nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)


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
    """Give up network, programs, other processes, privileges and all change of files, for good and in all threads.

    Returns:
        Whether the kernel forbids it all; False on a system other than Linux on x86-64 or ARM64, where only the
        writing of files is forbidden.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _FORBIDDEN:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    # Root without capabilities may not look into other processes either.
    head, none = struct.pack("Ii", _CAPABILITIES_3, 0), bytes(24)
    if libc.syscall(_CAPSET[machine], head, none) != 0:
        return False
    program = _program(_FORBIDDEN[machine], _OPENING[machine], _AUDIT[machine])
    held = ctypes.create_string_buffer(program, len(program))
    given = _Program(len(program) // 8, ctypes.addressof(held))
    return int(libc.syscall(_SECCOMP[machine], _FILTER_MODE, _ALL_THREADS, ctypes.byref(given))) == 0


def escapes() -> tuple[str, ...]:
    """Try what a bound process must not be able to do, and return what went well; nothing where all is as it should.

    It is called in the process itself, after `confine`.
    """
    return tuple(name for name, attempt in _ATTEMPTS.items() if _goes_well(attempt))


def _goes_well(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError as error:
        # It was looked for, so nothing but its absence was in the way.
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return True


# A name that can neither be made nor be there: a file is no folder.
_NOWHERE = "/proc/self/status/rentgen"
_ATTEMPTS: dict[str, Callable[[], object]] = {
    "open a connection": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "start a program": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
    "touch another process": lambda: os.kill(os.getppid(), 0),
    "look into its parent": lambda: os.close(os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY)),
    "write a file": lambda: os.close(os.open(_NOWHERE, os.O_WRONLY)),
    "make a file": lambda: os.close(os.open(_NOWHERE, os.O_CREAT)),
    "empty a file": lambda: os.truncate(_NOWHERE, 0),
    "delete a file": lambda: os.unlink(_NOWHERE),
    "rename a file": lambda: os.rename(_NOWHERE, _NOWHERE),
    "make a folder": lambda: os.mkdir(_NOWHERE),
    "change rights": lambda: os.chmod(_NOWHERE, 0o700),
}


def _program(forbidden: dict[str, int], opening: dict[int, int], architecture: int) -> bytes:
    """Return a filter: another architecture kills, what is forbidden is refused with EACCES, the rest is allowed.

    Args:
        forbidden: numbers of calls.
        opening: number of a call that opens files to the offset of its flags; it is allowed where they only read.
        architecture: as the kernel's audit numbers it.
    """
    numbers = sorted(forbidden.values())
    refuse_at = 5 + len(numbers) + 3 * len(opening) + 1
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, refuse_at - 5, 0, _X32),
    ]
    for number in numbers:
        steps.append((_IS, refuse_at - len(steps) - 1, 0, number))
    for number, flags_at in opening.items():
        # Where it is this call, its flags decide: whatever comes after, they are no number of a call.
        steps.append((_IS, 0, 2, number))
        steps.append((_LOAD, 0, 0, flags_at))
        steps.append((_ANY_OF, refuse_at - len(steps) - 1, refuse_at - len(steps) - 2, _WRITING))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE | errno.EACCES)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
