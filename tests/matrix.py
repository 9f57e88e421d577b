"""The light tests on the versions that are declared: each cell in an environment of its own, a row of a table each.

A cell is a Python, a PyTorch with its torchvision, and a detectron2: release 0.6 as pure Python, or its main branch,
built from its Git repository, or the Python files of a folder that --main names. `make matrix` runs all, for an hour or
so; docs/install.md has the table.

Example:
    python tests/matrix.py 3.10-oldest-0.6 3.13-newest-main --main ../detectron2
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What pip is given; the oldest is what setup.py declares, and for Python 3.13 the first with a torchvision.
TORCH = {
    ("3.10", "oldest"): ("torch==2.5.0", "torchvision==0.20.0"),
    ("3.13", "oldest"): ("torch==2.6.0", "torchvision==0.21.0"),
    ("3.10", "newest"): ("torch", "torchvision"),
    ("3.13", "newest"): ("torch", "torchvision"),
}
CELLS = [f"{python}-{torch}-{detectron2}" for python, torch in TORCH for detectron2 in ("0.6", "main")]
NEEDS = ("pytest>=8", "hiera-transformer==0.1.4", "transformers>=5", "shapely>=2", "faster-coco-eval>=1.6", "scipy")
VERSIONS = """
import platform, torch, torchvision
print(platform.python_version(), torch.__version__, torchvision.__version__, sep=" | ")
"""
#: Import, trunk, MAE, necks, compilation, training machinery, and detectors from config to AP.
LIGHT = [
    "test_import.py",
    "modeling/test_hiera.py",
    "modeling/test_mae.py",
    "modeling/test_pyramid.py",
    "modeling/test_intermediates.py",
    "modeling/fast",
    "engine/test_step.py",
    "engine/test_optimizer.py",
    "engine/test_ema.py",
    "d2/test_backbone.py",
    "d2/test_solver.py",
    "d2/test_step.py",
    "d2/test_data.py",
    "d2/test_precision.py",
    "d2/test_predict.py",
    "api/test_plain.py",
]


def run(*command: object, **variables: str) -> str:
    """Run a command in the project's folder and return all that it prints, its failures too."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    words = list(map(str, command))
    done = subprocess.run(words, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-2, check=False)
    return done.stdout + (f"\nexit status {done.returncode}" if done.returncode else "")


def set_up(python: str, torch: str, source: str, folder: Path) -> Path:
    """The Python of an environment, made where it is not there yet; ``source`` is where detectron2 comes from."""
    home = folder / f"{python}-{torch}-{source}"
    runs = home / "bin" / "python"
    if (home / "made").is_file():
        return runs
    steps = [
        [f"python{python}", "-m", "venv", home],
        [runs, "-m", "pip", "install", "-q", *TORCH[python, torch]],
        [runs, "-m", "pip", "install", "-q", f"{ROOT}[classify,hub,video]", *TORCH[python, torch], *NEEDS],
        [runs, "-m", "pip", "uninstall", "-qy", "hiera_det"],  # its needs stay; the tests take this folder's
        [runs, "-m", "hiera_det", "install-detectron2", "--source", source],
    ]
    for step in steps:
        said = run(*step, PYTHONPATH=str(ROOT))
        if "\nexit status" in said:
            raise SystemExit(f"{home.name}: {' '.join(map(str, step))}\n{said}")
    (home / "made").touch()
    return runs


def row(cell: str, folder: Path, main: Path | None) -> str:
    """Run a cell's tests; its row of the table.

    Args:
        cell: one of `CELLS`.
        folder: of environments and logs.
        main: where the Python files of detectron2's main branch are; what they need is what release 0.6 needs.
    """
    python, torch, detectron2 = cell.split("-")
    is_built = detectron2 == "main" and main is None
    runs = set_up(python, torch, "repository" if is_built else "index", folder)
    path = os.pathsep.join([str(ROOT), *([str(main)] if main and detectron2 == "main" else [])])
    versions = run(runs, "-c", VERSIONS, PYTHONPATH=path).splitlines()[-1]
    start = time.monotonic()
    tests = [f"tests/{file}" for file in LIGHT]
    said = run(runs, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, PYTHONPATH=path)
    (folder / f"{cell}.log").write_text(said)
    result = re.findall(r"(?:\d+ (?:passed|failed|skipped|errors?)(?:, )?)+", said) or ["did not run"]
    return f"| {versions} | {detectron2} | {result[-1].rstrip(', ')} | {time.monotonic() - start:.0f} s |"


def main() -> None:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", default=CELLS, help=", ".join(CELLS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hiera_det_matrix")
    parser.add_argument("--main", type=Path, help="detectron2's main branch, unpacked: its Python files, not compiled")
    args = parser.parse_args()
    print(f"{datetime.date.today()}\n\n| Python | torch | torchvision | detectron2 | light tests | in |")
    print("|---|---|---|---|---|---|", flush=True)
    failed = False
    for cell in args.cells:
        line = row(cell, args.folder.resolve(), args.main and args.main.resolve())
        failed |= "failed" in line or "error" in line or "did not run" in line
        print(line, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
