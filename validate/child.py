"""A child process that may crash, hang, or eat the memory: started, bounded and survived.

    python -m pecore.validate.child MEMORY PARENT_PID COMMAND...

becomes COMMAND with at most MEMORY bytes of address space, killed by the kernel when its parent is gone.
"""

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import pecore

Arrays = dict[str, np.ndarray]

LOG_LIMIT = 20_000  # characters of a native log that are kept: ML Drift's list for timm's own B/16 fits


def run_child(
    command: Sequence[str],
    logs: tuple[Path, Path],
    timeout_s: float,
    environment: Mapping[str, str] = {},
    memory: int = 0,
) -> int | None:
    """Run a command; it is gone when this returns or raises (Ctrl-C included).

    Args:
        command: with this package importable, and with `environment` beside the caller's.
        logs: where its stdout and its stderr go; the same file twice for both in the order in which they were written.
        timeout_s: after which it is killed, with what it started.
        memory: bytes of address space that it may take, and with them it is gone too when this process is killed; 0
            leaves both to the command.

    Returns:
        The return code as of `subprocess`, negative for a signal; None for a child that had to be killed.
    """
    source_root = str(Path(pecore.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (source_root, os.environ.get("PYTHONPATH"))))
    if memory:
        command = [sys.executable, "-P", "-m", "pecore.validate.child", str(memory), str(os.getpid()), *command]
    with logs[0].open("ab") as out, logs[1].open("ab") as err:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONPATH": path, **environment},
            start_new_session=True,
        )
        try:
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, however the parent went (Linux only)."""
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before the line above
        os._exit(1)


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays. The names go in as data: a tensor's name need not be a good file name."""
    np.savez(path, *arrays.values(), names=np.array(list(arrays), dtype=np.str_))


def load_arrays(path: Path) -> Arrays:
    """Read what `save_arrays` wrote."""
    with np.load(path) as archive:
        return {str(name): archive[f"arr_{i}"] for i, name in enumerate(archive["names"])}


def reporter(path: Path) -> Callable[..., None]:
    """What a child calls with the fields that it has reached: `path` is JSON of all so far, whole at any moment."""
    result: dict[str, Any] = {}

    def report(**fields: Any) -> None:
        result.update(fields)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(json.dumps(result))
        fresh.rename(path)

    return report


def signal_name(returncode: int) -> str | None:
    """`SIGSEGV` for the return code of a child that a signal ended; None for any other."""
    if returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def how_it_ended(returncode: int, doing: str, log: str) -> str:
    """What became of a child that should have come further, with the last it said."""
    name = signal_name(returncode)
    how = f"died of {name}" if name else f"ended with exit code {returncode}"
    last_words = " / ".join(log.strip().splitlines()[-3:])
    return f"the child {how} while {doing}; its last words: {last_words[-500:]}"


def shorten(log: str) -> str:
    """A log with the middle left out where it is longer than `LOG_LIMIT`."""
    if len(log) <= LOG_LIMIT:
        return log
    half = LOG_LIMIT // 2
    return f"{log[:half]}\n[... {len(log) - 2 * half} characters left out ...]\n{log[-half:]}"


def main() -> None:
    import resource

    memory, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    os.execv(command[0], command)  # the kernel's promise to kill it lives through this


if __name__ == "__main__":
    main()
