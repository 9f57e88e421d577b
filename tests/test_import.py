"""Importing stays light, and the core needs no detector."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


BLOCK_DETECTRON2 = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "detectron2":
            raise ImportError("detectron2 is blocked")
sys.meta_path.insert(0, Blocker())
"""


def test_core_runs_with_detectron2_blocked() -> None:
    code = BLOCK_DETECTRON2 + (
        "import torch, hiera_det, hiera_det.weights.layouts, hiera_det.weights.sources\n"
        "import hiera_det.tasks.pretrain.train, hiera_det.tasks.classify.train, hiera_det.tasks.classify.predict\n"
        "trunk = hiera_det.hiera_tiny(embed_dim=16, depths=(1, 1, 1, 1))\n"
        "neck = hiera_det.FPN(trunk.feature_info, 16)\n"
        "print(neck(trunk(torch.zeros(1, 3, 64, 64)))['p2'].shape)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "16, 16, 16" in done.stdout


def test_asking_for_the_adapter_without_detectron2_says_how_to_install_it() -> None:
    done = run_python(BLOCK_DETECTRON2 + "from hiera_det import HieraBackbone\n")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "needs detectron2" in last
    assert "install" in last


def test_importing_the_package_imports_neither_torch_nor_a_detector() -> None:
    done = run_python("import sys, hiera_det; print([m for m in ('torch', 'detectron2', 'timm') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_trunk_leaves_the_compiler_alone() -> None:
    loaded = "[m for m in ('torch._dynamo', 'torch._inductor') if m in sys.modules]"
    done = run_python(f"import sys; from hiera_det import hiera_base, hiera_mae, load_weights; print({loaded})")
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    done = run_python(
        "import hiera_det\n"
        "assert set(hiera_det.__all__) <= set(dir(hiera_det)), 'not listed'\n"
        "objects = {}\n"
        "exec('from hiera_det import *', objects)\n"
        "assert set(objects) - {'__builtins__'} == set(hiera_det.__all__)\n"
        "print(*sorted(name for name in objects if callable(objects[name])))\n"
    )
    assert done.returncode == 0, done.stderr
    assert {"Hiera", "HieraBackbone", "Predictor", "build_hiera", "load_weights"} <= set(done.stdout.split())


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    done = run_python("import hiera_det; hiera_det.hiera_enormous")
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'hiera_det' has no attribute 'hiera_enormous'"


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("from hiera_det import *; print('HieraBackbone' in globals(), hiera_base.__name__)", "False hiera_base"),
        ("import hiera_det; print(hasattr(hiera_det, 'HieraBackbone'), hasattr(hiera_det, 'Hiera'))", "False True"),
        ("import hiera_det; print('Predictor' in dir(hiera_det), 'Hiera' in dir(hiera_det))", "False True"),
        ("import hiera_det, inspect; print('Hiera' in dict(inspect.getmembers(hiera_det)))", "True"),
        ("import hiera_det, pydoc; print('class Hiera(' in pydoc.plain(pydoc.render_doc(hiera_det)))", "True"),
    ],
)
def test_looking_around_works_without_detectron2(code: str, printed: str) -> None:
    done = run_python(BLOCK_DETECTRON2 + code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == printed


def test_trainings_are_there_without_detectron2_and_say_what_a_detector_needs() -> None:
    code = "import inspect\nfrom hiera_det import *\nprint(*inspect.signature(train_detector).parameters)\n"
    code += "train_detector('mask_rcnn_hiera_t')\n"
    done = run_python(BLOCK_DETECTRON2 + code)
    assert done.stdout.startswith("config train val data split output weights epochs ")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hiera_det.errors.InputError: hiera_det.d2 needs detectron2")


def test_an_attribute_that_needs_detectron2_says_so() -> None:
    done = run_python(BLOCK_DETECTRON2 + "import hiera_det\nhiera_det.Predictor\n")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("AttributeError: hiera_det.Predictor: ")
    assert "needs detectron2" in last
