"""A file's time on a GPU. It runs in a process of its own, one file after the other, so what comes of it is not
paired."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pecore.timing import WARM
from pecore.validate.gpu import Verdict, probe, run_on_gpu

NO_GPU = "No GPU was found to measure."


def times_on_gpu(
    files: Mapping[str, Path], image: np.ndarray, rounds: int, log: Callable[[str], None]
) -> tuple[dict[str, tuple[list[float], np.ndarray]], list[str]]:
    """Seconds of `rounds` runs after the first `WARM`, and the embedding, of each file on ML Drift in fp16, by the
    file's name and the adapter's; and what is to be said about those that have none.

    Times include the way of the image to the GPU and of the embedding back. A software driver is not measured: its
    time is no GPU's.
    """
    adapter = probe()
    if adapter is None:
        return {}, [NO_GPU]
    if adapter.software:
        return {}, [f"{NO_GPU} {adapter.name} is a software driver: it tells what is right, not what is fast."]
    found, notes = {}, []
    for name, path in files.items():
        log(f"{name} on {adapter.name}")
        run = run_on_gpu(path, [{"image": image}] * (WARM + rounds))
        if run.verdict is Verdict.RAN:
            found[f"{name} on {adapter.name}, fp16"] = (list(run.run_s[WARM:]), run.outputs[-1]["embedding"])
        else:
            notes.append(f"{name} did not run on {adapter.name}: {run.detail}.")
    return found, notes
