"""Whether memory and open files stay level: a detector's training for hours, and predictions by the ten thousand.

    python tests/soak.py train --hours 2 --output soak_train
    python tests/soak.py predict --count 20000 --output soak_predict
    python tests/soak.py report soak_train

All processes of the run, loader workers among them, are looked at every 20 s (``--every``); ``samples.csv`` in the
folder has a line for each. At the end, and by ``report`` at any time, the slopes are printed with what they may be
wrong by: lines through the means of 12 blocks, so that neighbouring samples need not be independent, over all but the
first tenth, in which caches fill.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "d2"), str(HERE.parent)]

COLUMNS = ("seconds", "done", "processes", "rss_mib", "main_rss_mib", "handles")
#: Student's t for 95% with 10 degrees of freedom: a line through 12 means.
BLOCKS, STUDENT = 12, 2.228
TRAINING = "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 100000000 SOLVER.STEPS () SOLVER.CHECKPOINT_PERIOD 100 SEED 1"
TRAINING += " SOLVER.KEEP_CHECKPOINTS 2 SOLVER.EMA_DECAY 0.99 TEST.EVAL_PERIOD 200 DATALOADER.NUM_WORKERS 2"


def tree(root: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def sample(root: int) -> tuple[int, float, float, int]:
    """Processes, their memory in MiB, that of the first alone, and their open files; of what is gone nothing counts."""
    memory, handles = [], 0
    for process in tree(root):
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            handles += len(os.listdir(f"/proc/{process}/fd"))
        except OSError:
            continue
        memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return len(memory), sum(memory), sum(memory[:1]), handles


def watch(work: Callable[[], None], done: Callable[[], int], folder: Path, every: float, seconds: float) -> None:
    """Fork ``work``, write a line of `COLUMNS` now and then, and stop it by SIGTERM after so many seconds."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    since = time.monotonic()
    with open(folder / "samples.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        while process.is_alive() and time.monotonic() - since < seconds:
            process.join(every)
            count, memory, main, handles = sample(process.pid or 0)
            if count:
                lines.writerow(
                    [f"{time.monotonic() - since:.0f}", done(), count, f"{memory:.2f}", f"{main:.2f}", handles]
                )
                file.flush()
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    print(f"exit status {process.exitcode}")


def train(folder: Path, hours: float, every: float) -> None:
    """A small Mask R-CNN on ten small images, with two loader workers, checkpoints, averages and evaluations."""
    from detections import CONFIGS, SMALL, write_boxes

    data = write_boxes(folder)
    words = ["--config-file", str(CONFIGS / "quick_start.yaml"), *data, *SMALL, *TRAINING.split()]
    out = folder / "run"

    def work() -> None:
        import torch

        from hiera_det.cli.train_detector import main
        from hiera_det.errors import run_tool

        torch.set_num_threads(1)
        descriptor = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv = ["train", *words, "OUTPUT_DIR", str(out)]
        run_tool(main)

    def done() -> int:
        lines = (out / "metrics.json").read_text().splitlines() if (out / "metrics.json").is_file() else []
        return int(json.loads(lines[-1])["iteration"]) if lines else 0

    watch(work, done, folder, every, hours * 3600)


def predict(folder: Path, count: int, every: float) -> None:
    """Images of 40 sizes, a hundred at a time, by a detector with random weights."""
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for number in range(40):
        files.append(folder / f"{number}.png")
        size = (*map(int, random.integers(40, 100, 2)), 3)
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(files[-1])
    so_far = multiprocessing.get_context("fork").Value("q", 0)

    def work() -> None:
        import torch
        from conftest import CONFIG, TINY
        from detectron2.modeling import build_model

        from hiera_det.d2.config.load import load_config
        from hiera_det.d2.predict.predictor import Predictor
        from hiera_det.d2.train.checkpoint import HieraCheckpointer

        torch.set_num_threads(1)
        cfg = load_config(str(CONFIG), TINY)
        HieraCheckpointer(build_model(cfg), str(folder)).save("model_final")
        predictor = Predictor(cfg, folder / "model_final.pth", threshold=0.0)
        while so_far.value < count:
            for _ in predictor.predict_files((files * 3)[:100]):
                so_far.value += 1

    watch(work, lambda: int(so_far.value), folder, every, float("inf"))


def slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of the line through the means of `BLOCKS` blocks, and half its interval of 95%."""
    x, y = (np.array([block.mean() for block in np.array_split(values, BLOCKS)]) for values in (x, y))
    far = x - x.mean()
    rise = float((far * y).sum() / (far**2).sum())
    rest = y - y.mean() - rise * far
    return rise, STUDENT * float(np.sqrt((rest**2).sum() / (BLOCKS - 2) / (far**2).sum()))


def report(folder: Path) -> str:
    """A line for each quantity."""
    with open(folder / "samples.csv", newline="") as file:
        rows = np.array([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
    rows = rows[len(rows) // 10 :]
    if len(rows) < 2 * BLOCKS:
        return f"{len(rows)} samples are too few"
    hours, done = rows[:, 0] / 3600, rows[:, 1]
    lines = [f"{len(rows)} samples over {hours[-1] - hours[0]:.2f} h, {done[-1] - done[0]:.0f} steps or predictions"]
    for name, values in zip(COLUMNS[3:], rows[:, 3:].T, strict=True):
        by_hour, by_count = slope(hours, values), slope(done / 1000, values)
        lines.append(
            f"{name}: {values.min():.1f} to {values.max():.1f}, slope {by_hour[0]:+.3f} +- {by_hour[1]:.3f} an hour, "
            f"{by_count[0]:+.4f} +- {by_count[1]:.4f} a thousand"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, then print the slopes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "predict", "report"])
    parser.add_argument("folder", nargs="?", type=Path, help="of report")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--hours", type=float, default=2.0, help="of train")
    parser.add_argument("--count", type=int, default=20000, help="of predict")
    parser.add_argument("--every", type=float, default=20.0, help="seconds")
    args = parser.parse_args()
    folder = args.folder or args.output or Path(f"soak_{args.what}")
    folder.mkdir(parents=True, exist_ok=True)
    if args.what == "train":
        train(folder, args.hours, args.every)
    elif args.what == "predict":
        predict(folder, args.count, args.every)
    print(report(folder))


if __name__ == "__main__":
    main()
