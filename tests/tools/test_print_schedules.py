"""tools/print_schedules.py, and the table of docs/training.md that it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "print_schedules.py"


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *flags], capture_output=True, text=True, check=False, timeout=200)


def test_the_docs_have_every_configs_schedule_for_coco() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout in (ROOT / "docs" / "training.md").read_text()
    configs = [path.name for folder in ("configs", "configs/lazy") for path in (ROOT / folder).glob("*.*")]
    assert configs
    assert all(f"{name}`" in done.stdout for name in configs)
    # By hand: 100 epochs of 118,287 images in batches of 64.
    assert (
        "| `mask_rcnn_hiera_b.yaml` | 100.0 | 64 | 184824 | 164288, 177979 | 3.5e-05 | 250 | 1 | 0.2 |" in done.stdout
    )


def test_a_number_of_images_that_is_none_is_one_line() -> None:
    done = run("--images", "0")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "error: --images 0: give 1 or more")
