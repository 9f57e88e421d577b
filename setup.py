"""Packaging. detectron2 is not on the package index: hiera-det install-detectron2 installs it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "hiera_det" / "__init__.py").read_text(), re.MULTILINE)[1]

HUB = ["huggingface_hub>=0.30"]
FAST_EVAL = ["faster-coco-eval>=1.6"]
PEERS = ["hiera-transformer==0.1.4", "timm>=1.0.15", "transformers>=5"]
CLASSIFY = ["torchvision", "timm>=1.0.15", "Pillow", "matplotlib", "tqdm"]
VIDEO = ["av>=12"]
REPORT = ["jinja2", "matplotlib", "Pillow", "pycocotools"]
TORCHVISION = ["torchvision", "tqdm", *REPORT]
ADAPTERS = ["peft>=0.15", "torchao>=0.13"]
ONNX = ["onnxruntime>=1.20", "onnxscript>=0.5"]
SUPERVISION = ["supervision>=0.25"]
APP = ["gradio>=6"]
DOCS = ["mkdocs-material>=9.5,<10", "mkdocstrings-python>=2"]
TEST_TOOLS = [
    "pytest>=8",
    "pytest-xdist>=3",
    "ruff==0.17.5",
    "mypy==2.4.1",
    "shapely>=2",
    "nbclient>=0.10",
    "nbformat>=5",
    "ipykernel>=6",
]

setup(
    name="hiera_det",
    version=VERSION,
    description="Object detection and instance segmentation with Hiera vision transformers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["hiera_det", "hiera_det.*"]), "hiera_det.configs"],
    package_dir={"hiera_det.configs": "configs"},
    package_data={
        "hiera_det": ["py.typed"],
        "hiera_det.report": ["report.html.jinja"],
        "hiera_det.configs": ["*.yaml", "_base_/*.yaml", "lazy/*.py", "lazy/common/*.py"],
    },
    install_requires=["torch>=2.5", "numpy", "safetensors"],
    entry_points={"console_scripts": ["hiera-det = hiera_det.cli.main:main"]},
    extras_require={
        "hub": HUB,
        "fast-eval": FAST_EVAL,
        "test": [
            *TEST_TOOLS,
            *DOCS,
            *HUB,
            *FAST_EVAL,
            *PEERS,
            *CLASSIFY,
            *VIDEO,
            *REPORT,
            *ADAPTERS,
            *ONNX,
            *SUPERVISION,
        ],
        "peers": PEERS,
        "classify": CLASSIFY,
        "video": VIDEO,
        "docs": DOCS,
        "report": REPORT,
        "torchvision": TORCHVISION,
        "onnx": ONNX,
        "supervision": SUPERVISION,
        "app": APP,
    },
)
