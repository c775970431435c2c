"""The command line's fast path: hand the command to the daemon's warm command line (`engine.cli.warm`).

Importing Typer and the rest costs 150-200 ms; a warm process has them already, and forks for each command. This file
imports only modules that every Python process has, and falls back to the full command line in this process whenever
the warm one is not there or not the same world: another mount or network namespace, another root directory, another
user, another daemon.

Protocol (SOCK_SEQPACKET, Unix): the first message is the request, fields separated by NUL: version, host, identity of
our world, umask, number of arguments, arguments, environment; with it come the descriptors of stdin, stdout, stderr and
the working directory. Answer: `refused` or `taken`, later `exit CODE`. From us, meanwhile: `signal NUMBER`. When this
end closes, the command is killed.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket

VERSION = "1"
DEFAULT_SOCKET = "/run/engine/engine.sock"
CLI_SOCKET = "cli.sock"
"""Name of the warm command line's socket, in the directory of the daemon's socket."""
_VALUED = ("--host", "-H", "--net-driver", "--net-opt", "--tlscacert", "--tlscert", "--tlskey")
_NOT_WARM = ("daemon",)
"""Commands that run here: they outlive the warm command line."""


def main() -> int:
    """Run the command line of this process; return its exit code."""
    arguments = sys.argv[1:]
    path = _daemon_socket(arguments)
    if path:
        code = _warm(path, arguments)
        if code is not None:
            os._exit(code)  # nothing of ours is left to clean up, and the interpreter's end costs 1 ms
    from engine.cli.app import main as full

    return full(arguments)


def _daemon_socket(arguments: list[str]) -> str:
    """Return the path of the daemon's socket, or an empty string if the command is not for a warm command line."""
    if os.environ.get("ENGINE_CLI") == "full":
        return ""
    host = os.environ.get("ENGINE_HOST", "")
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        name, equals, value = arguments[at].partition("=")
        if name == "--host" or name.startswith("-H"):
            if name != "--host" and name != "-H":
                value = arguments[at][2:]
            elif not equals:
                value = arguments[at + 1] if at + 1 < len(arguments) else ""
            host = value
        at += 2 if name in _VALUED and not equals else 1
    if at < len(arguments) and arguments[at] in _NOT_WARM:
        return ""
    if not host:
        return DEFAULT_SOCKET
    return host[7:] if host.startswith("unix:///") else ""


def world() -> str:
    """Return what must be equal for a command to mean the same in the warm process: namespaces and root directory."""
    root = os.stat("/")  # noqa: PTH116 - pathlib costs 3 ms
    names = [os.readlink("/proc/self/ns/" + name) for name in ("mnt", "net", "user")]  # noqa: PTH115
    return " ".join([*names, str(root.st_dev), str(root.st_ino)])


def _warm(path: str, arguments: list[str]) -> int | None:
    """Let the warm command line run the command; None if it does not."""
    from _socket import AF_UNIX, SOCK_SEQPACKET, SOL_SOCKET, socket

    connection = socket(AF_UNIX, SOCK_SEQPACKET, 0)
    try:
        connection.connect(path[: path.rfind("/") + 1] + CLI_SOCKET)
        umask = os.umask(0o077)
        os.umask(umask)
        fields = [VERSION, path, world(), str(umask), str(len(arguments)), *arguments]
        fields += [f"{name}={value}" for name, value in os.environ.items()]
        directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
        descriptors = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2, directory))
        scm_rights = 1  # SCM_RIGHTS, whose name _socket has but type checkers do not know
        connection.sendmsg([os.fsencode("\0".join(fields))], [(SOL_SOCKET, scm_rights, descriptors)])
        if connection.recv(16) != b"taken":
            return None
    except OSError:
        return None  # not there, no right to it, or a command line too long for one message
    return _follow(connection)


def _follow(connection: "Socket") -> int:
    """Pass signals on until the command has ended; return its exit code."""
    import _signal  # type: ignore[import-not-found]  # the C module; `signal` costs 2 ms

    def forward(number: int, _frame: object) -> None:
        stopping = number == _signal.SIGTSTP
        try:
            connection.send(b"signal %d" % (_signal.SIGSTOP if stopping else number))
        except OSError:
            return  # the command has ended: its exit code is on the way
        if stopping:
            os.kill(os.getpid(), _signal.SIGSTOP)

    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH", "TSTP", "CONT"):
        _signal.signal(getattr(_signal, "SIG" + name), forward)
    try:
        answer = connection.recv(64)
    except OSError:
        answer = b""
    if not answer.startswith(b"exit "):
        os.write(2, b"engine: the daemon's command line ended before the command did\n")
        return 125
    return int(answer[5:])
