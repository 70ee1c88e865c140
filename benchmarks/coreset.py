"""Coreset: what choosing it in shards costs in covering radius, and what MIIC at full size would take.

    python benchmarks/coreset.py [--part 50] [--rows 20000 60000] [--shards 2 4 8]

Patches of drawn MIIC images (SEM of metal lines, 224 pixels, ResNet-18, bundled weights, concatenated embedding of 384
values), projected to 128 values as PatchCore does before it chooses. The first table holds the choice in shards against
the exact greedy one where both run. The second chooses 1 % and 10 % of a --part-th of MIIC's training images, measures
time and memory, and scales them up as the sentence below it says.
Prints Markdown tables.
"""

import argparse
import ctypes
import math
import platform
import tempfile
import time
from pathlib import Path

import timm
import torch
from patchcore import memory, patches_of

import adlib
from adlib.datasets import facts
from adlib.memory.coreset import covering_radius, k_centre_greedy, k_centre_greedy_in_shards
from adlib.memory.memory_bank import random_projection
from adlib.memory.patch_store import WORKING_SHARE
from adlib.samples import select

PIXELS, WIDTH = 224, 128
SPARE = 2  # times its share that every shard chooses: the default of k_centre_greedy_in_shards
SMALL_MEMORY = 4e9  # bytes, as memory="4GB"


def timed(work) -> tuple[torch.Tensor, float]:
    """The result of a call, and the seconds that processor cores worked on it, which other programs disturb least."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def compare_shards(patches: torch.Tensor, sizes: list[int], numbers: list[int]) -> None:
    """A table: covering radius and time of the exact choice of a tenth, and of that in shards."""
    print("| patches, chosen | shards | covering radius | times the exact one | core s |")
    print("|---|---|---|---|---|")
    for size in sizes:
        rows = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:size].sort().values
        some, count = patches[rows], size // 10
        exact, seconds = timed(lambda: k_centre_greedy(some, count))  # noqa: B023  called at once
        radius = covering_radius(some, exact)
        print(f"| {size}, {count} | 1 | {radius:.4f} | 1 | {seconds:.1f} |", flush=True)
        for shards in numbers:
            length = -(-size // shards)
            kept, seconds = timed(lambda: k_centre_greedy_in_shards(some, count, length, SPARE))  # noqa: B023
            found = covering_radius(some, kept)
            print(f"| {size}, {count} | {shards} | {found:.4f} | {found / radius:.3f} | {seconds:.1f} |", flush=True)


def measured(patches: torch.Tensor, share: float) -> tuple[float, int]:
    """Core seconds of a choice, and the bytes by which memory grows beyond the patches meanwhile."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier choices have freed is not to hide what this one takes
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    _, seconds = timed(lambda: k_centre_greedy(patches, int(share * len(patches))))
    return seconds, memory("VmHWM") - before


def scale_up(patches: torch.Tensor, part: int) -> None:
    """A table: time and memory of the choice of 1 % and 10 % of the patches, and what all of MIIC's would take."""
    total, half = part * len(patches), patches[::2].contiguous()
    shards = -(-total // int(SMALL_MEMORY / (4 * WIDTH * WORKING_SHARE)))
    heads = ["MIIC", f"measured: of {len(patches)}", "core s", "of half", "power", "grown by, MB", "of half"]
    heads += [f"all: of {total}", "core h", "with power 2", f"that in {shards} shards", "memory, GB"]
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for share in (0.01, 0.1):
        less, grown_by_half = measured(half, share)
        seconds, grown = measured(patches, share)
        power = math.log2(seconds / less)
        square = seconds * part**2 / 3600
        bytes_needed = part * patches.nbytes + grown + (part - 1) * 2 * (grown - grown_by_half)
        row = [f"{share:.0%}", str(int(share * len(patches))), f"{seconds:.1f}", f"{less:.1f}", f"{power:.2f}"]
        row += [f"{grown / 1e6:.0f}", f"{grown_by_half / 1e6:.0f}", str(int(share * total))]
        row += [f"{seconds * part**power / 3600:.1f}", f"{square:.1f}"]
        row += [f"{square * (SPARE / shards + SPARE * share):.1f}", f"{bytes_needed / 1e9:.1f}"]
        print("| " + " | ".join(row) + " |", flush=True)
    print(
        "\nAt a fixed share, time grows with a power of the number of patches: the power is that between half of them "
        "and all; by products alone (patches times choices) it is 2. Memory is that of the patches, and what choosing "
        "takes beyond them, which grows along the line through both sizes. In s shards "
        f'(memory="{SMALL_MEMORY / 1e9:g}GB"), each of which chooses {SPARE} times its share, a power of 2 gives '
        f"{SPARE}/s of the time for the shards and {SPARE} times the share for the choice among their choices."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=int, default=50)
    parser.add_argument("--rows", type=int, nargs="+", default=[20000, 60000])
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4, 8])
    given = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    print(f"{versions}, CPU, {torch.get_num_threads()} threads\n")
    images = facts("miic").counts["MIIC"][0] // given.part
    with tempfile.TemporaryDirectory() as folder:
        adlib.phantoms.draw("miic", f"{folder}/miic", counts=(images, 1, 1), size=PIXELS)
        samples = select(adlib.load_samples("miic", f"{folder}/miic"), split="train")
        patches, seconds = timed(lambda: patches_of(adlib.ImageSet(samples, size=PIXELS), "cpu"))
    print(f"{len(samples)} images, {len(patches)} patches, embedded in {seconds:.0f} s\n")
    patches = patches @ random_projection(patches.shape[1], WIDTH, seed=0)
    compare_shards(patches, given.rows, given.shards)
    scale_up(patches, given.part)


if __name__ == "__main__":
    main()
