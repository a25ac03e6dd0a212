"""Measures how long it takes to open a DiT-XL/2, and how much memory.

The file is written first, 675 million random parameters under the names of DiT's
authors (2.7 GB), and opened by `interop.load_dit` in a process of its own.

    python benchmarks/open_pretrained.py --folder=runs/dit_xl
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

WIDTH, LAYERS, CLASSES = 1152, 28, 1001


def shapes():
    """Names and shapes of DiT-XL-2-256x256.pt."""
    sizes = {
        "x_embedder.proj": (WIDTH, 4, 2, 2),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
        "final_layer.linear": (32, WIDTH),
    }
    for i in range(LAYERS):
        sizes |= {
            f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }
    found = {"y_embedder.embedding_table.weight": (CLASSES, WIDTH)}
    for name, shape in sizes.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def write(path):
    """Writes the checkpoint."""
    from safetensors.numpy import save_file

    from diffusionflow.networks.pretrained.dit import place_sinusoids

    row = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32) * 0.02
    state = {name: np.resize(row, shape) for name, shape in shapes().items()}
    places = place_sinusoids(16, 16, WIDTH, 16)[None]
    state["pos_embed"] = np.asarray(places, np.float32)
    print(f"{sum(array.size for array in state.values()):,} parameters")
    save_file(state, path)


def resident():
    """Resident memory of this process in bytes: now, and the largest so far.

    `getrusage` would count the process that wrote the file, of which this is a fork.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    now, most = (
        int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M)[1]) * 1024
        for name in ("VmRSS", "VmHWM")
    )
    return now, most


def opened(path):
    """Opens the checkpoint; prints seconds and bytes as JSON."""
    import jax

    from diffusionflow import interop
    from diffusionflow.networks.pretrained import DiTTransformer2D  # noqa: F401

    jax.block_until_ready(jax.numpy.zeros(1))
    before, _ = resident()
    start, busy = time.monotonic(), time.process_time()
    model = interop.load_dit(path)
    jax.block_until_ready(model.network.params)
    seconds, busy = time.monotonic() - start, time.process_time() - busy
    after, most = resident()
    found = dict(seconds=seconds, busy=busy, before=before, after=after, most=most)
    print(json.dumps(found))


def main():
    """Writes the file if it is not there, opens it, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=pathlib.Path, default="runs/dit_xl")
    parser.add_argument("--open", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        opened(arguments.open)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "DiT-XL-2-256x256.safetensors"
    if not path.is_file():
        write(path)
    command = [sys.executable, __file__, f"--open={path}"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    found, size = json.loads(run.stdout), path.stat().st_size
    print(f"file                     {size / 1e9:.2f} GB")
    print(f"opened in                {found['seconds']:.1f} s")
    print(f"of the processor         {found['busy']:.1f} s")
    print(f"resident before          {found['before'] / 1e9:.2f} GB")
    for name in ("after", "most"):
        share = found[name] / size
        print(f"resident {name:<16}{found[name] / 1e9:.2f} GB, {share:.2f} of the file")


if __name__ == "__main__":
    main()
