"""The installer's steps; that the whole works is shown by the environment that these tests run in."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from hiera_det.cli import install_detectron2 as installer


def make_source(folder: Path, np_places: int) -> Path:
    """A package with as many uses of removed NumPy names, and one of Pillow's."""
    package = folder / "detectron2"
    (package / "layers").mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.6"\n')
    lines = ["x = np.bool_(1)", "cfg.MODEL._C = Image.LINEAR", *["y = np.int(np.pi)"] * np_places]
    (package / "layers" / "all.py").write_text("\n".join(lines))
    (package / "model_zoo.py").write_text(
        "import os\nimport pkg_resources\n"
        'x = pkg_resources.resource_filename(\n    "detectron2.model_zoo", "a.yaml"\n)\n'
    )
    (package / "export.py").write_text("from .api import *\nfrom .flatten import TracingAdapter\n")
    (folder / "setup.cfg").write_text("[egg_info]\n")
    return folder


def make_archive(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def test_mends_apply_where_they_are_meant(tmp_path: Path) -> None:
    source = make_source(tmp_path, np_places=19)
    installer.make_pure_python(source)
    text = (source / "detectron2" / "layers" / "all.py").read_text().splitlines()
    assert text[:3] == ["x = np.bool_(1)", "cfg.MODEL._C = Image.BILINEAR", "y = int(np.pi)"]
    assert not (source / "setup.cfg").exists()
    compile((source / "setup.py").read_text(), "setup.py", "exec")


def test_what_newer_packages_have_dropped_is_not_imported(tmp_path: Path) -> None:
    make_source(tmp_path, np_places=19)
    installer.make_pure_python(tmp_path)
    names = {"__file__": str(tmp_path / "zoo.py")}
    exec((tmp_path / "detectron2" / "model_zoo.py").read_text(), names)
    assert names["x"] == str(tmp_path / "a.yaml")
    export = (tmp_path / "detectron2" / "export.py").read_text()
    assert export.startswith("try:\n    from .api import *\nexcept ImportError:")
    compile(export, "export.py", "exec")


def test_a_package_of_other_content_is_refused_untouched(tmp_path: Path) -> None:
    source = make_source(tmp_path, np_places=18)
    with pytest.raises(installer.InstallError, match=r"18 places to mend .* expected 19"):
        installer.make_pure_python(source)
    assert "np.int" in (source / "detectron2" / "layers" / "all.py").read_text()


def test_the_stand_in_names_the_operator_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(installer.STAND_IN)
    spec = importlib.util.spec_from_file_location("stand_in", tmp_path / "stand_in.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(RuntimeError, match="nms_rotated is a compiled operator"):
        module.nms_rotated  # noqa: B018  asking is what raises
    assert not module.has_cuda()
    assert not hasattr(module, "__wrapped__")  # tools that look around are not disturbed


@pytest.mark.parametrize("name", ["../outside", "/outside", "package/../../outside"])
def test_a_path_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = 1
    with pytest.raises(installer.InstallError, match="outside"):
        installer.extract(make_archive(tmp_path / "a.tar.gz", member), tmp_path / "source")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_link_in_the_archive_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("package/link")
    member.type, member.linkname = tarfile.SYMTYPE, "/"
    with pytest.raises(installer.InstallError, match="no plain file"):
        installer.extract(make_archive(tmp_path / "a.tar.gz", member), tmp_path / "source")


def test_nothing_reachable_gives_both_reasons_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "REPOSITORY", "http://127.0.0.1:9/detectron2.git")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(installer.InstallError) as caught:
        installer.install("auto")
    message = str(caught.value)
    assert "127.0.0.1:9/detectron2.git" in message
    assert "pb1-detectron2==0.6 on the package index" in message
    assert "\n" not in message


def test_an_installed_detectron2_is_named_and_left_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hiera_det", "install-detectron2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("detectron2 ")
    assert "compiled operators" in line or "pure Python" in line
