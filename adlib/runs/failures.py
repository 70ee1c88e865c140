"""How a notebook can fail: kinds, and sentences for them."""

import inspect
import signal

from adlib.errors import GPU_MEMORY_SHORT, InputError

# Kinds of failure that may not come again, because they depend on what else the machine does.
WORTH_A_RETRY = ("kernel died", "stalled", "out of memory", "out of GPU memory")
# Where a name says enough; other exceptions are of the kind "error".
KINDS = {
    InputError.__name__: "wrong input",
    "TrainingDiverged": "diverged",
    "MemoryError": "out of memory",
    "_ArrayMemoryError": "out of memory",
    "OutOfMemoryError": "out of GPU memory",
}
# The first that is found in an exception's text. Images wait in shared memory for whoever asked the processes that load
# them (torch's DataLoader); where it is full, torch speaks of a device without space, which is no disk.
SENTENCES = {
    "out of shared memory": "out of memory",
    "shared memory(shm)": "out of memory",
    "unable to write to file </torch_": "out of memory",
    "DataLoader worker (pid": "kernel died",
    "DefaultCPUAllocator": "out of memory",
    "Cannot allocate memory": "out of memory",
    **dict.fromkeys(GPU_MEMORY_SHORT, "out of GPU memory"),
    "No space left on device": "disk full",
}
# What needs less of a GPU's memory, by the name of the parameter that a method must have for it.
SMALLER = {
    "batch_size": "a smaller batch_size",
    "memory": "a limit such as memory=2GB",
    "precision": "precision=bfloat16",
}


class NotebookFailed(RuntimeError):
    """A notebook did not run through.

    kind: "wrong input" (a parameter, or data that are gone), "error" (any other exception), "diverged" (a loss that is
    not finite), "out of memory", "out of GPU memory", "disk full", "kernel died" (or a process that loaded its images),
    "stalled" (it hung), "time limit", "interrupted".
    reason: one line. worked: whether any cell had worked by then, that of the parameters apart.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason
        self.worked = True


def of_exception(name: str, text: str, method: str = "") -> NotebookFailed:
    """What a notebook failed with: the exception's name and text. method: of the run, if it was one."""
    lines = text.strip().splitlines() or [""]
    kind = KINDS.get(name) or next((kind for part, kind in SENTENCES.items() if part in text), "error")
    reason = lines[0] if kind in ("wrong input", "diverged") else f"{name}: {lines[0]}"
    return NotebookFailed(kind, reason + (f" {_advice(method)}" if method and kind == "out of GPU memory" else ""))


def _advice(method: str) -> str:
    """What a person may choose where a GPU's memory is short, of what a run of this method has.

    What changes no number has been tried by then (adlib.gpu_memory).
    """
    from adlib.models import model_class  # imports torch

    known = inspect.signature(model_class(method).__init__).parameters
    ways = ["a smaller size", *(way for name, way in SMALLER.items() if name in known)]
    which = " or ".join(filter(None, [", ".join(ways[:-1]), ways[-1]]))
    gives = "each gives" if len(ways) > 1 else "it gives"
    return f"Less memory is needed with {which}; {gives} other numbers, so it is for you to choose."


def of_death(status: int | None, memory_was_short: bool) -> NotebookFailed:
    """What the kernel ended of: its exit status, negative for a signal; whether the system ended processes meanwhile
    because memory was short.
    """
    if status == -signal.SIGKILL and memory_was_short:
        return NotebookFailed("out of memory", "The system ended the kernel because memory was short.")
    if status is not None and status < 0:
        return NotebookFailed("kernel died", f"The kernel was ended by signal {-status} ({_signal_name(-status)}).")
    return NotebookFailed("kernel died", f"The kernel ended by itself, with exit status {status}.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def of_disk(error: OSError) -> NotebookFailed:
    """The worker itself could not write, or read what it wrote."""
    kind = "disk full" if "No space left" in str(error) or "quota" in str(error) else "error"
    return NotebookFailed(kind, f"{type(error).__name__}: {error}")
