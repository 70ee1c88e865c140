"""What the identity of a large data set costs: the fingerprint of 3CAD's full counts, drawn, first and second time.

Run with `python benchmarks/identity.py [FOLDER]`. Draws 27,039 images of 64 pixels into FOLDER if they are not there
(3 minutes, 0.3 GB), then takes the fingerprint in two processes that share a new cache of hashes. The files come from
memory, where writing has left them: otherwise the first time takes as long as the disk takes to read the set.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from adlib.phantoms import draw

ONCE = """
import sys, time
from adlib.datasets import load_samples
from adlib.samples import fingerprint
samples = load_samples("three_cad", sys.argv[1])
start = time.perf_counter()
value = fingerprint(samples)
print(f"{len(samples)} images, {(samples['mask'] != '').sum()} masks, {value}: {time.perf_counter() - start:.2f} s")
"""

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir()) / "three_cad_published"
    draw("three_cad", folder, size=64, counts="published")
    with tempfile.TemporaryDirectory() as cache:
        for which in ("first", "second"):
            print(which, end=" time: ", flush=True)
            subprocess.run([sys.executable, "-c", ONCE, folder], env=os.environ | {"ADLIB_CACHE": cache}, check=True)
