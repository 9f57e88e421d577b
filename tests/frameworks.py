"""Runs the examples of docs/using_the_backbone.md that need packages which the tests do not have.

Each in an environment of its own, with this folder and that package, and without detectron2; or with --here in the
environment of this Python, where the packages must be.

Example:
    python tests/frameworks.py
    python tests/frameworks.py --here lightning
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^<!-- not run: needs (?P<package>\S+);.*-->\n```text\n(?P<text>(?:.*\n)*?)```$", re.MULTILINE)


def python_with(package: str, folder: Path) -> Path:
    """A Python that has the package and what this project needs."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    needs = ["torch>=2.5", "torchvision", "safetensors", "timm>=1.0.15", package]
    subprocess.run([python, "-m", "pip", "install", "-q", *needs], check=True)
    return python


def main() -> int:
    """Run the examples, or those of the packages that are named; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", help="default: all")
    parser.add_argument("--here", action="store_true", help="in this environment")
    args = parser.parse_args()
    failed = 0
    for block in BLOCK.finditer((ROOT / "docs" / "using_the_backbone.md").read_text(encoding="utf-8")):
        package = block["package"]
        if args.packages and package not in args.packages:
            continue
        with tempfile.TemporaryDirectory() as folder:
            python = sys.executable if args.here else python_with(package, Path(folder) / "venv")
            done = subprocess.run(
                [python, "-c", block["text"]], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
            )
        print(f"{package}: {'failed' if done.returncode else 'ran'}", flush=True)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
