"""Work in several processes: for what Python itself computes, which threads would do one after the other."""

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def in_processes(work: Callable, arguments: list[tuple], processes: int) -> list:
    """[work(*each) for each in arguments], by so many processes, or in this one where one would do.

    They begin as new interpreters, so a script that gets here needs `if __name__ == "__main__":`, as for Dask.
    Raises what the first piece that failed has raised; what other processes are at is ended then.
    """
    processes = min(processes, len(arguments))
    if processes < 2:
        return [work(*each) for each in arguments]
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _leave_interrupts_to_the_parent) as pool:
        futures = [pool.submit(work, *each) for each in arguments]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
