"""What only a GPU can show, in a few minutes: trainings in every precision, their ends, and equal answers to the CPU's.

Each case starts the tools as users do, several cases at a time, and prints a line; the exit status is the number of
cases that failed. Times and memory are for `hiera-det benchmark --device cuda --all`.

    python tests/on_a_gpu.py --output on_a_gpu
    python tests/on_a_gpu.py --output on_a_gpu --only bfloat16 compiled
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
STEPS = 80
PATIENCE = 300
BFLOAT16 = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")


class Ended(NamedTuple):
    """Exit status and what was written to stdout and stderr."""

    status: int
    said: str

    def expect(self, status: int = 0, words: str = "") -> Ended:
        """Fail unless it ended so, without a traceback, and said the words."""
        assert self.status == status, f"exit status {self.status}: {self.last()}"
        assert "Traceback" not in self.said, self.last()
        assert re.search(words, self.said), f"did not say {words!r}: {self.last()}"
        return self

    def last(self) -> str:
        return " | ".join(self.said.strip().splitlines()[-3:])[-600:]


class Machine:
    """The device, the data, and a folder for what trainings leave."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.shapes = folder / "shapes"
        self.run("make-shapes", self.shapes, "--train", "60", "--val", "12").expect()

    def start(self, *words: object, python: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, *python, "-m", "hiera_det", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=self.folder
        )

    def run(self, *words: object, python: tuple[str, ...] = ()) -> Ended:
        process = self.start(*words, python=python)
        try:
            said = process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return Ended(-1, f"no end in {PATIENCE} s; " + process.communicate()[0])
        return Ended(process.returncode, said)

    def detector(
        self, name: str, *more: object, config: str = "quick_start", flags: tuple[str, ...] = ()
    ) -> list[object]:
        """The words of a training of `STEPS` steps."""
        data = [
            word
            for split in ("train", "val")
            for word in (
                *(f"--{split}-json", self.shapes / "annotations" / f"{split}.json"),
                *(f"--{split}-images", self.shapes / "images" / split),
            )
        ]
        keys = ["SOLVER.MAX_ITER", STEPS, "TEST.EVAL_PERIOD", STEPS, "SEED", 1, "MODEL.DEVICE", self.device]
        config_file = ["--config-file", ROOT / "configs" / f"{config}.yaml"]
        return ["train", *config_file, *data, *flags, *keys, "OUTPUT_DIR", self.folder / name, *more]

    def metrics(self, name: str) -> list[dict[str, float]]:
        lines = (self.folder / name / "metrics.json").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def losses(self, name: str, key: str) -> str:
        """A training's losses, all of which must be finite."""
        losses = [line[key] for line in self.metrics(name) if key in line]
        assert losses, "no loss was written"
        assert all(map(math.isfinite, losses)), losses
        return "losses " + ", ".join(f"{loss:.3f}" for loss in losses[:: max(1, len(losses) // 4)])


def trains(machine: Machine, name: str, *more: object, python: tuple[str, ...] = ()) -> str:
    """A training whose losses are finite."""
    machine.run(*machine.detector(name, *more), python=python).expect()
    return machine.losses(name, "total_loss")


def stopped(machine: Machine) -> str:
    """SIGTERM in the middle, then the same command with ``--auto-resume``: every iteration is there, once."""
    words = machine.detector("stopped", "SOLVER.MAX_ITER", 5 * STEPS, flags=("--auto-resume",))
    words += [*BFLOAT16]
    process = machine.start(*words)
    log = machine.folder / "stopped" / "metrics.json"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not (log.is_file() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    Ended(process.wait(PATIENCE), process.communicate()[0]).expect(143)
    took = time.monotonic() - began
    machine.run(*words).expect(words="resum")
    iterations = [line["iteration"] for line in machine.metrics("stopped") if "total_loss" in line]
    assert len(iterations) == len(set(iterations)), iterations
    assert set(iterations) >= set(range(19, 5 * STEPS, 20)), iterations
    return f"ended {took:.1f} s after the signal; {len(iterations)} lines of metrics, none twice"


def same_answers(machine: Machine) -> str:
    """A checkpoint's AP and its predictions on the device and on the CPU."""
    name = "evaluated"
    trains(machine, name, "SOLVER.MAX_ITER", 8 * STEPS, "SOLVER.IMS_PER_BATCH", 8, *BFLOAT16)
    weights = ("MODEL.WEIGHTS", machine.folder / name / "model_final.pth")
    aps = []
    for device in (machine.device, "cpu"):
        out = f"{name}_{device}"
        words = machine.detector(out, *weights, "MODEL.DEVICE", device, flags=("--eval-only",))
        machine.run(*words).expect()
        log = (machine.folder / out / "log.txt").read_text(encoding="utf-8")
        aps.append([float(ap) for ap in re.findall(r"copypaste: Task: (?:.*\n){2}.*copypaste: ([\d.]+)", log)])
    difference = max(abs(a - b) for a, b in zip(*aps, strict=True))
    assert difference <= 0.1, f"AP {aps}"
    return f"box and mask AP {aps[0][0]:.3f}, {aps[0][1]:.3f}; the CPU's differ by {difference:.4f}"


def forecast(machine: Machine) -> str:
    """The memory that a dry run foretells, and what a training took."""
    large = ("SOLVER.IMS_PER_BATCH", 4, *BFLOAT16, "SOLVER.MAX_ITER", 20, "TEST.EVAL_PERIOD", 0)
    dry = machine.run(*machine.detector("dry", *large, config="mask_rcnn_hiera_b", flags=("--dry-run",))).expect()
    foretold = re.search(r"peak memory\s+(\d+) MiB", dry.said)
    assert foretold, dry.last()
    machine.run(*machine.detector("large", *large, config="mask_rcnn_hiera_b")).expect()
    held = max(line.get("peak_memory_mib", 0) for line in machine.metrics("large"))
    return f"foretold {foretold[1]} MiB, held {held:.0f}"


def too_large(machine: Machine) -> str:
    """A batch that no GPU holds."""
    words = machine.detector("too_large", "SOLVER.IMS_PER_BATCH", 480, config="mask_rcnn_hiera_b")
    ended = machine.run(*words, "DATALOADER.NUM_WORKERS", 8)
    return ended.expect(ended.status or 2, "memory").last()


def one_too_many(machine: Machine) -> str:
    """More processes than GPUs."""
    import torch

    count = torch.cuda.device_count() + 1
    return machine.run(*machine.detector("many", flags=("--num-gpus", str(count)))).expect(2).last()


def plain(machine: Machine, tool: str, *more: object, python: tuple[str, ...] = ()) -> str:
    """Pretraining or training a classifier: an epoch, then a second one from its checkpoint."""
    from media import write_class_folders

    name = "_".join([tool, *map(str, more)]).replace("--", "") + ("_torchrun" if python else "")
    images = machine.folder / f"{name}_images"
    write_class_folders(images, 16)
    data = (
        ["--images", images]
        if tool == "pretrain"
        else ["--train", images, "--val", images, "--mixup", 0, "--cutmix", 0]
    )
    words = [tool, *data, "--output", machine.folder / name, "--size", "tiny", "--image-size", 64, "--batch-size", 8]
    words += ["--warmup-epochs", 0, "--device", machine.device, "--auto-resume", "--epochs", 2, *more]
    machine.run(*words, python=python).expect()
    return machine.losses(name, "loss")


def exported(machine: Machine) -> str:
    """ONNX of a training on the device, compared with the model by the command itself."""
    trains(machine, "to_export")
    return (
        machine.run("export", "--run", machine.folder / "to_export", "--output", machine.folder / "d.onnx")
        .expect()
        .last()
    )


CASES: dict[str, Callable[[Machine], str]] = {
    "too_large": too_large,
    "forecast": forecast,
    "compiled": lambda machine: trains(machine, "compiled", *BFLOAT16, "MODEL.HIERA.COMPILE", "True"),
    "same_answers": same_answers,
    "stopped": stopped,
    "float32": lambda machine: trains(machine, "float32"),
    "bfloat16": lambda machine: trains(machine, "bfloat16", *BFLOAT16),
    "float16": lambda machine: trains(machine, "float16", *BFLOAT16, "SOLVER.AMP.PRECISION", "float16"),
    "averaged": lambda machine: trains(machine, "averaged", *BFLOAT16, "SOLVER.EMA_DECAY", 0.9),
    "checkpointed": lambda machine: trains(machine, "checkpointed", *BFLOAT16, "MODEL.HIERA.USE_CHECKPOINT", "True"),
    "recomputed": lambda machine: trains(
        machine, "recomputed", *BFLOAT16, "MODEL.HIERA.RECOMPUTE_GELU", "['stage1','stage2']"
    ),
    "accumulated": lambda machine: trains(machine, "accumulated", *BFLOAT16, "SOLVER.ACCUMULATE", 2),
    "torchrun": lambda machine: trains(machine, "torchrun", *BFLOAT16, python=TORCHRUN),
    "one_too_many": one_too_many,
    "pretrain": lambda machine: plain(machine, "pretrain"),
    "pretrain_float16": lambda machine: plain(machine, "pretrain", "--precision", "float16"),
    "pretrain_fsdp": lambda machine: plain(machine, "pretrain", "--parallel", "fsdp", python=TORCHRUN),
    "classify": lambda machine: plain(machine, "train-classifier"),
    "classify_compiled": lambda machine: plain(machine, "train-classifier", "--compile"),
    "classify_fsdp": lambda machine: plain(machine, "train-classifier", "--parallel", "fsdp", python=TORCHRUN),
    "exported": exported,
}


def main() -> int:
    """Run the cases; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this program itself")
    parser.add_argument("--at-once", type=int, default=5)
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    machine = Machine(args.output.resolve(), args.device)
    failed = []

    def try_case(name: str) -> None:
        began = time.monotonic()
        try:
            outcome = "ok      " + CASES[name](machine)
        except Exception as error:  # of whatever kind: the other cases go on
            failed.append(name)
            outcome = f"FAILED  {type(error).__name__}: {error}"
        print(f"{name:<18}{time.monotonic() - began:5.0f} s  {outcome}", flush=True)

    with ThreadPoolExecutor(args.at_once) as pool:
        list(pool.map(try_case, args.only))
    print(f"{len(args.only) - len(failed)} of {len(args.only)} cases as they should be", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
