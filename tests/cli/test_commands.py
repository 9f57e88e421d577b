"""``hiera-det COMMAND`` as a user meets it: help at once, words that are nearly right, packages that are missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hiera_det.cli.main import COMMANDS

TOOLS = Path(__file__).parents[2] / "tools"
#: The scripts of tools/ and their commands.
SCRIPTS = {
    "check_dataset": "check",
    "convert_dataset": "convert-dataset",
    "train_net": "train",
    "lazyconfig_train_net": "train-lazy",
    "demo": "predict",
    "evaluate": "evaluate",
    "train_classifier": "train-classifier",
    "classify": "classify",
    "pretrain_mae": "pretrain",
    "convert_weights": "convert-weights",
    "benchmark": "benchmark",
    "compare": "compare",
    "draw_augmented": "draw-augmented",
    "draw_positions": "draw-positions",
    "print_schedules": "print-schedules",
    "install_detectron2": "install-detectron2",
    "make_shapes_dataset": "make-shapes",
}
#: What no help needs, and what takes longer to import than a user waits for one.
HEAVY = ("torch", "detectron2", "numpy", "PIL", "matplotlib")
#: As `python -c` code: find none of these packages, then run a command.
BLOCKED = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.split(".")[0] in {blocked} else find(name, path, target)
PathFinder.find_spec = find_others
sys.argv = {words}
from hiera_det.cli.main import main
try:
    main()
finally:
    print("loaded:", [name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


def run(*words: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``hiera-det`` with these words in a fresh Python that has none of the blocked packages."""
    code = BLOCKED.format(blocked=set(blocked) or "()", words=["hiera-det", *words], heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def flags(help_: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_.split("options:", 1)[1]))


@pytest.mark.parametrize("word", COMMANDS)
def test_help_is_there_at_once_and_speaks_of_the_command(word: str) -> None:
    done = run(word, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: hiera-det {word} ")
    assert done.stderr.strip() == "loaded: []"


@pytest.mark.parametrize(("script", "word"), SCRIPTS.items())
def test_a_script_of_tools_is_its_command_under_its_own_name(script: str, word: str) -> None:
    path = TOOLS / f"{script}.py"
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}.py ")
    assert flags(done.stdout) == flags(run(word, "--help").stdout)
    examples = done.stdout.partition("Example")[2]
    assert f"python tools/{script}.py" in examples
    assert f"hiera-det {word}\n" not in examples


def test_every_script_has_its_command() -> None:
    assert {path.stem for path in TOOLS.glob("*.py")} == set(SCRIPTS)
    assert set(SCRIPTS.values()) <= set(COMMANDS)


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_without_a_command_all_are_listed(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert re.findall(r"^  ([a-z0-9-]+) ", done.stdout, re.MULTILINE) == list(COMMANDS)


def test_the_module_is_the_command_and_tells_its_version() -> None:
    done = subprocess.run([sys.executable, "-m", "hiera_det", "--version"], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"hiera_det \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize(("word", "hint"), [("trian", "did you mean train?"), ("xyz", "hiera-det --help lists them")])
def test_an_unknown_command_is_one_line_with_the_nearest(word: str, hint: str) -> None:
    done = run(word)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: {word}: no such command; {hint}"
    assert not done.stdout


DETECTOR_COMMANDS = {
    "train": ["--config-file", "any.yaml"],
    "train-lazy": ["--config-file", "any.py"],
    "predict": ["--run", "any", "--input", "any.jpg", "--json", "any.json"],
    "draw-augmented": ["--config-file", "any.yaml", "--output", "any.png"],
    "print-schedules": [],
    "compare": ["--made", "shapes"],
    "benchmark": ["--task", "detector-train"],
}


@pytest.mark.parametrize(("word", "words"), DETECTOR_COMMANDS.items())
def test_without_detectron2_one_line_says_how_to_get_it(word: str, words: list[str]) -> None:
    done = run(word, *words, blocked=("detectron2",))
    assert done.returncode == 2, done.stderr
    *_, line, _ = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "needs detectron2" in line
    assert line.endswith("hiera-det install-detectron2")
    assert "Traceback" not in done.stderr


NEEDS = [
    ("train-classifier", ["--train", ".", "--val", ".", "--output", "out"], "torchvision"),
    ("pretrain", ["--images", ".", "--output", "out"], "matplotlib"),
    ("classify", ["any.jpg", "--weights", "any.pth"], "PIL"),
    ("make-shapes", ["out"], "numpy"),
    ("draw-positions", ["out.png"], "torch"),
    ("check", ["any.json", "any"], "PIL"),
    ("predict", DETECTOR_COMMANDS["predict"], "pycocotools"),
    ("predict", DETECTOR_COMMANDS["predict"], "tqdm"),
    ("benchmark", [], "torch"),
    ("app", ["--run", "nothing"], "gradio"),
]


@pytest.mark.parametrize(("word", "words", "package"), NEEDS)
def test_without_a_package_one_line_names_it(
    word: str, words: list[str], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(word, *words, blocked=(package,))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    *_, line, _ = done.stderr.splitlines()
    assert re.match(rf"error: .*\b{package}\b.*(pip install|hiera-det doctor)", line), done.stderr


@pytest.mark.parametrize(
    ("missing", "status", "command"),
    [
        ("torch", 1, "for everything: .* -m pip install --upgrade 'torch>=2.5' torchvision"),
        ("detectron2", 0, "for detectors: .* -m hiera_det install-detectron2"),
        ("torchvision", 0, "for detectors, .*: .* -m pip install --upgrade torchvision"),
    ],
)
def test_the_doctor_has_a_command_for_what_is_missing(missing: str, status: int, command: str) -> None:
    absent = ("numpy", "safetensors", "torchvision", "detectron2", "timm", "matplotlib", "faster_coco_eval")
    done = run("doctor", blocked=(missing, *absent) if missing == "torch" else (missing, "timm", "faster_coco_eval"))
    assert done.returncode == status, done.stdout
    assert re.search(rf"^{missing} +missing$", done.stdout, re.MULTILINE)
    assert re.search(r"^PIL +\d+\.", done.stdout, re.MULTILINE)
    assert re.search(r"^devices +\d+ processor cores", done.stdout, re.MULTILINE)
    assert re.search(f"^{command}$", done.stdout, re.MULTILINE)


def test_the_doctor_tells_what_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = run("doctor")
    assert done.returncode == 1
    said = "cannot be imported: RuntimeError: operator torchvision::nms does not exist"
    assert re.search(rf"^torchvision +{said}$", done.stdout, re.MULTILINE)
