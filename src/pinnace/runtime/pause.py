"""The process that holds a pod's shared PID namespace: it reaps orphans and waits for ever.

Written as machine code, since nothing is compiled at installation and nothing is downloaded: it ignores SIGCHLD
with SA_NOCLDWAIT, so that the kernel reaps whatever is handed to it, and pauses in a loop. As the first process
of its namespace it can only be killed by SIGKILL from outside, which ends the namespace with all that runs in it.
"""

from __future__ import annotations

import struct

_BASE = 0x400000
_HEADER = 64 + 56                        # ELF header and one program header
# struct sigaction of the kernel: SIG_IGN, then flags and (on x86) restorer, then the mask.
_SIGACTION = struct.pack("<QQQQ", 1, 0x2, 0, 0)

_AMD64 = bytes.fromhex(
    "bf11000000"      # mov edi, 17 (SIGCHLD)
    "488d351c000000"  # lea rsi, [rip+28] (the sigaction behind the code)
    "31d2"            # xor edx, edx
    "41ba08000000"    # mov r10d, 8
    "b80d000000"      # mov eax, 13 (rt_sigaction)
    "0f05"            # syscall
    "b822000000"      # loop: mov eax, 34 (pause)
    "0f05"            # syscall
    "ebf7"            # jmp loop
    "90909090"        # (alignment)
)
_ARM64 = b"".join(
    struct.pack("<I", word)
    for word in (
        0xD2800220,  # mov x0, #17 (SIGCHLD)
        0x100001A1,  # adr x1, .+52 (the sigaction behind the code)
        0xD2800002,  # mov x2, #0
        0xD2800103,  # mov x3, #8
        0xD28010C8,  # mov x8, #134 (rt_sigaction)
        0xD4000001,  # svc #0
        0xD2800000,  # loop: mov x0, #0
        0xD2800001,  # mov x1, #0
        0xD2800002,  # mov x2, #0
        0xD2800003,  # mov x3, #0
        0xD2800928,  # mov x8, #73 (ppoll: this architecture has no pause)
        0xD4000001,  # svc #0
        0x17FFFFFA,  # b loop
        0xD503201F,  # nop (alignment)
    )
)
_CODE = {"amd64": (62, _AMD64), "arm64": (183, _ARM64)}


def _elf(machine: int, code: bytes) -> bytes:
    size = _HEADER + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9), 2, machine, 1, _BASE + _HEADER, 64, 0, 0, 64, 56, 1, 64, 0, 0,
    )  # fmt: skip
    program = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + program + code


def executable(architecture: str) -> bytes | None:
    """A static ELF program for Go's name of an architecture; None where we have none."""
    if architecture not in _CODE:
        return None
    machine, code = _CODE[architecture]
    return _elf(machine, code + _SIGACTION)
