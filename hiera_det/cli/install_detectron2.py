"""Install detectron2, which is on no package index, into the Python that runs this; needs PyTorch and pip.

1. detectron2 is there already: says which one, and stops.
2. Its official Git repository can be reached: pip installs it from there, with its C++ and CUDA operators.
3. Else the package index: the source package pb1-detectron2 0.6, whose Python files are those of the official release
   0.6. It lacks the C++ sources, so it becomes a pure-Python install. Mask R-CNN, RPN, FPN, training and COCO
   evaluation need none of the compiled operators; deformable convolution and rotated boxes do, and say so when used.

Examples:
    hiera-det install-detectron2
    hiera-det install-detectron2 --source index
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hiera_det.cli.command import command_parser

REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
PROBE_SECONDS = 20

PACKAGE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# Later pips refuse the package's metadata for a URL in an extra that nobody needs.
PIP_THAT_READS_IT = "pip>=25.3,<26.1"

#: What detectron2 0.6 imports at run time. Its own list pins a formatter and an old iopath, and leaves out OpenCV and
#: shapely, with which it crops polygons.
REQUIREMENTS = (
    "fvcore>=0.1.5",
    "iopath>=0.1.9",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "termcolor>=1.1",
    "cloudpickle",
    "tqdm",
    "matplotlib",
    "pycocotools>=2.0.2",
    "tensorboard",
    "opencv-python-headless",
    "Pillow",
    "packaging",
    "scipy",
    "shapely>=2",
)

#: Projects that the official install puts under ``detectron2.projects``.
PROJECTS = {
    "detectron2.projects.point_rend": "projects/PointRend/point_rend",
    "detectron2.projects.deeplab": "projects/DeepLab/deeplab",
    "detectron2.projects.panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}


@dataclass(frozen=True)
class Mend:
    """One replacement in the package's Python files, with the number of places where it must apply."""

    pattern: str
    replacement: str
    places: int
    why: str


MENDS = (
    Mend(r"\bImage\.LINEAR\b", "Image.BILINEAR", 1, "Pillow 10 removed the old name of the same constant"),
    Mend(
        r"\bnp\.(bool|int|float|str)\b",
        r"\1",
        19,
        "NumPy 1.24 removed these other names of the built-in types",
    ),
    Mend(r"\bimport pkg_resources\n", "", 1, "setuptools 82 removed it"),
    Mend(
        r"pkg_resources\.resource_filename\(\s*\"detectron2\.model_zoo\", ",
        "os.path.join(os.path.dirname(__file__), ",
        1,
        "the same",
    ),
    Mend(
        r"from \.api import \*",
        "try:\n    from .api import *\nexcept ImportError:  # as on the main branch\n    pass",
        1,
        "PyTorch no longer brings caffe2",
    ),
)

#: ``detectron2/_C.py`` of the pure-Python install. Four modules of 0.6 import it without asking whether it is there.
STAND_IN = '''"""Stands in for detectron2's compiled operators, which this pure-Python install does not have."""

NOTE = "not compiled: pure-Python install"


def get_compiler_version():
    """For detectron2's report on its environment."""
    return NOTE


def get_cuda_version():
    """For detectron2's report on its environment."""
    return NOTE


def has_cuda():
    """For detectron2's report on its environment."""
    return False


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise RuntimeError(
        f"detectron2._C.{name} is a compiled operator, and this is a pure-Python install of detectron2 0.6; "
        "install detectron2 from its Git repository where you need it"
    )
'''

SETUP = """from setuptools import find_packages, setup

PROJECTS = {projects!r}
setup(
    name="detectron2",
    version="0.6+pure",
    packages=find_packages(include=["detectron2", "detectron2.*"]) + list(PROJECTS),
    package_dir=PROJECTS,
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
    license_files=["LICENSE"],
    python_requires=">=3.10",
    install_requires={requirements!r},
)
"""


class InstallError(Exception):
    """Why detectron2 cannot be installed, in one line."""


def run(command: list[str], **options: object) -> str:
    """Run a command and return its output.

    Raises:
        InstallError: it failed; the message is its last line of error.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "fatal"))] or lines or ["no message"]
        raise InstallError(f"{Path(command[0]).name} {' '.join(command[1:4])}: {errors[-1]}")
    return str(done.stdout)


def pip(*arguments: str, **options: object) -> str:
    """Run pip in this Python."""
    return run([sys.executable, "-m", "pip", *arguments], **options)


def describe_installed() -> str | None:
    """Version and place of the detectron2 that this Python imports, or None.

    Raises:
        InstallError: there is one, but it cannot be imported.
    """
    if importlib.util.find_spec("detectron2") is None:
        return None
    program = (
        "import detectron2, detectron2.layers, importlib.util as u; "
        "from detectron2.evaluation import COCOEvaluator; "
        "s = u.find_spec('detectron2._C'); "
        "kind = 'pure Python' if s is None or s.origin.endswith('.py') else 'compiled operators'; "
        "print(f'detectron2 {detectron2.__version__}, {kind}, in {list(detectron2.__path__)[0]}')"
    )
    try:
        return run([sys.executable, "-W", "ignore", "-c", program]).strip().splitlines()[-1]
    except InstallError as error:
        reason = str(error).rpartition(": ")[2]
        raise InstallError(
            f"a detectron2 is installed, but it cannot be imported ({reason}); "
            f"remove it with '{sys.executable} -m pip uninstall detectron2' and run this again"
        ) from None


def probe_repository() -> None:
    """Raise an `InstallError` where the official repository cannot be read within `PROBE_SECONDS`."""
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}  # a proxy's login page must not wait for a password
    try:
        run(["git", "ls-remote", REPOSITORY, "HEAD"], timeout=PROBE_SECONDS, env=environment)
    except FileNotFoundError:
        raise InstallError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise InstallError(f"no answer in {PROBE_SECONDS} s") from None


def install_from_repository() -> None:
    """Build the main branch with its compiled operators; minutes."""
    probe_repository()
    print("detectron2: building from its Git repository; this takes some minutes", flush=True)
    pip("install", "setuptools>=70.1")
    pip("install", "--no-build-isolation", f"git+{REPOSITORY}")
    pip("install", *REQUIREMENTS)  # its own list leaves out two of them


def install_from_index() -> None:
    """Download the source package, mend it, and install it as pure Python."""
    print("detectron2: taking the source package of release 0.6 from the package index", flush=True)
    with tempfile.TemporaryDirectory(prefix="detectron2-") as folder:
        archive = download(Path(folder))
        source = extract(archive, Path(folder) / "source")
        make_pure_python(source)
        print("detectron2: installing it as pure Python, with what it needs", flush=True)
        pip("install", "--no-build-isolation", str(source))


def download(folder: Path) -> Path:
    """Download the source package into a folder; pip checks its sha256 before it reads the metadata.

    Returns:
        the archive, checked once more.
    """
    pip("install", "setuptools>=70.1")  # to read the metadata, and to build later
    pip("install", "--target", str(folder / "pip"), PIP_THAT_READS_IT)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    flags = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    environment = os.environ | {"PYTHONPATH": str(folder / "pip")}
    pip("download", *flags, "-r", str(requirement), "-d", str(folder / "download"), env=environment)
    (archive,) = (folder / "download").iterdir()
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise InstallError(f"{archive.name} has sha256 {found}, expected {SHA256}: it is not the file that was checked")
    return archive


def extract(archive: Path, folder: Path) -> Path:
    """Unpack plain files and folders that stay inside ``folder``; returns the package's top folder."""
    root = folder.resolve()
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            inside = (root / member.name).resolve().is_relative_to(root)
            if not inside or not (member.isfile() or member.isdir()):
                raise InstallError(f"{archive.name} holds {member.name!r}, which is no plain file inside the package")
        if hasattr(tarfile, "data_filter"):  # absent from the first releases of Python 3.10 and 3.11
            tar.extractall(root, members, filter="data")
        else:
            tar.extractall(root, members)
    (top,) = root.iterdir()
    return top


def make_pure_python(source: Path) -> None:
    """Mend the package's files, put the stand-in in place of the operators, and write a setup.py that builds nothing.

    Raises:
        InstallError: a mend does not find the places that it was written for.
    """
    files = {path: path.read_text(encoding="utf-8") for path in sorted((source / "detectron2").rglob("*.py"))}
    for mend in MENDS:
        places = 0
        for path, text in files.items():
            files[path], count = re.subn(mend.pattern, mend.replacement, text)
            places += count
        if places != mend.places:
            raise InstallError(f"{places} places to mend for {mend.pattern} ({mend.why}), expected {mend.places}")
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    (source / "detectron2" / "_C.py").write_text(STAND_IN)
    (source / "setup.py").write_text(SETUP.format(projects=PROJECTS, requirements=list(REQUIREMENTS)))
    (source / "setup.cfg").unlink(missing_ok=True)


def install(source: str) -> None:
    """Try the sources in turn; raises `InstallError` with every reason when none works."""
    reasons = []
    for name, attempt in (("repository", install_from_repository), ("index", install_from_index)):
        if source in ("auto", name):
            try:
                return attempt()
            except InstallError as error:
                where = REPOSITORY if name == "repository" else f"{PACKAGE} on the package index"
                reasons.append(f"{where}: {error}")
                if source == "auto" and name == "repository":
                    print(f"detectron2: not from its Git repository ({error})", flush=True)
    raise InstallError("detectron2 could not be installed; " + "; ".join(reasons))


def argument_parser() -> argparse.ArgumentParser:
    """Where to take it from."""
    parser = command_parser("install-detectron2", __doc__)
    parser.add_argument(
        "--source", choices=["auto", "repository", "index"], default="auto", help="where to take it from"
    )
    return parser


def main() -> None:
    """Install detectron2; exit status 0 when it can be imported at the end."""
    args = argument_parser().parse_args()
    try:
        print(describe_installed() or install_and_describe(args.source))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def install_and_describe(source: str) -> str:
    """Install it, and say what is there then.

    Raises:
        InstallError: what it needs is missing, no source gives it, or it is not found afterwards.
    """
    for module, advice in (
        ("torch", f"{sys.executable} -m pip install torch torchvision"),
        ("pip", "python -m ensurepip"),
    ):
        if importlib.util.find_spec(module) is None:
            raise InstallError(f"{module} is not installed in {sys.executable}: first {advice}")
    install(source)
    importlib.invalidate_caches()
    installed = describe_installed()
    if installed is None:
        raise InstallError("pip reported success, but this Python does not find detectron2")
    return installed
