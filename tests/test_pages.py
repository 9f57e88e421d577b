"""What README and docs/ show runs: shell and Python blocks, one after the other, on small data of their names.

Only paths are others: the configs are small ones of the same names, and files of published weights have random ones. A
block of another language says in a comment before it why it is not run.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from hiera_det import hiera_tiny, hieradet_tiny, pretrain_mae, train_classifier
from hiera_det.cli.commands_page import commands_page
from hiera_det.cli.main import main
from hiera_det.d2.config import files
from hiera_det.data.shapes import write_shapes_dataset

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE
)
RUN = ("sh", "python")
#: Pages whose blocks another test runs, with what they give.
ELSEWHERE = {"family.md": "test_docs.py"}
SMALL = {
    "MODEL": {
        "WEIGHTS": "",
        "DEVICE": "cpu",
        "HIERA": {"EMBED_DIM": 16, "DEPTHS": [1, 1, 1, 1], "NUM_GLOBAL_BLOCKS": 0},
        "FPN": {"OUT_CHANNELS": 16},
        "ROI_BOX_HEAD": {"CONV_DIM": 16, "FC_DIM": 16},
        "ROI_MASK_HEAD": {"CONV_DIM": 16},
    },
    "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64},
    "DATALOADER": {"NUM_WORKERS": 0},
    "TEST": {"PICTURES": 1},
}


def blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text(encoding="utf-8")))


def with_blocks_to_run() -> list[Path]:
    return [page for page in PAGES if any(block["language"] in RUN for block in blocks(page))]


def merged(below: dict[str, object], above: dict[str, object]) -> dict[str, object]:
    """A nested dictionary with another's values over it."""
    both = {**below, **above}
    return {
        key: merged(below[key], value) if isinstance(below.get(key), dict) else value for key, value in both.items()
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """A user's folder: a data set, photos, folders of classes, and files of weights."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(run_folder, home / "detector")
    data = write_shapes_dataset(home / "shapes", train=4, val=2, size=64)
    shutil.copytree(home / "shapes" / "images", home / "images")
    shutil.copy(data.train_json, home / "train.json")
    shutil.copy(data.val_json, home / "val.json")
    (home / "photos").mkdir()
    for number, name in enumerate(("aster", "bellflower")):
        shutil.copy(home / f"images/train/00000{number}.jpg", home / "photos" / f"{name[0]}.jpg")
        for split, count in (("train", 8), ("val", 1)):
            folder = home / "flowers" / split / name
            folder.mkdir(parents=True)
            for copy in range(count):
                shutil.copy(home / f"images/{split}/00000{number}.jpg", folder / f"{copy}.jpg")
    (home / "imagenet.txt").write_text("aster\nbellflower\n")
    small = {"embed_dim": 16, "depths": [1] * 4, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 1}
    words = {"image_size": 64, "epochs": 1, "batch_size": 2, "num_workers": 0}
    mae = pretrain_mae(home / "photos", output=home / "mae", **words, settings=small)
    train_classifier(
        train=home / "flowers/train", val=home / "flowers/val", output=home / "classes", weights=mae.last, **words
    )
    torch.save(hiera_tiny().state_dict(), home / "tiny.pth")
    torch.save(hieradet_tiny().state_dict(), home / "sam.pth")
    trunk = hieradet_tiny(embed_dim=16, depths=(1, 1, 1, 1), global_blocks=())
    torch.save(trunk.state_dict(), home / "small_sam.pth")
    shutil.copytree(ROOT / "configs", home / "configs")
    for name in ("mask_rcnn_hiera_t_1x", "mask_rcnn_hieradet_t"):
        path = home / f"configs/{name}.yaml"
        path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), SMALL)))
    return home


def in_home(text: str, home: Path) -> str:
    """A block with the paths of what is at hand."""
    for name, file in {
        "timm://hiera_base_224.mae_in1k_ft_in1k": "classes/model_final.pth",
        "mae_hiera_tiny_224.pth": "mae/model_final.pth",
        "output/mae/model_final.pth": "mae/model_final.pth",
        "hf://facebook/sam2.1-hiera-tiny": "small_sam.pth",
        "timm://hiera_tiny_224.mae": "tiny.pth",
        "hiera_tiny_224.pth": "tiny.pth",
        "classes/model_final.pth": "classes/model_final.pth",
        "output/shapes": "detector",
        "sam2.1_hiera_tiny.pt": "sam.pth",
    }.items():
        text = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w.])", str(home / file), text)
    return text.replace("configs/mask", f"{ROOT}/configs/mask")


def run_shell(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands of a block, each of which is ours."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "hiera-det", line
            monkeypatch.setattr("sys.argv", words)
            try:
                main()
            except SystemExit as ended:
                assert not ended.code, line  # noqa: PT017  a command that succeeds may return or exit


@pytest.mark.parametrize("page", [page for page in with_blocks_to_run() if page.name not in ELSEWHERE], ids=str)
def test_the_blocks_of_a_page_run(
    page: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.json", "val.json", "images", "photos", "flowers", "imagenet.txt"):
        if page.name != "python.md":  # which makes its own
            Path(name).symlink_to(home / name)
    monkeypatch.setattr(files, "OWN_CONFIGS", home / "configs" if page.name != "python.md" else files.OWN_CONFIGS)
    names: dict[str, object] = {}
    for block in blocks(page):
        text = in_home(block["text"], home)
        if block["language"] == "sh":
            run_shell(text, monkeypatch)
        elif block["language"] == "python":
            exec(compile(text, str(page), "exec"), names)
    said = capsys.readouterr().out
    if page.name == "python.md":
        assert said.splitlines()[-1] == "batch_size 0: must be a whole number of at least 1"
        assert Path("drawn.png").is_file()


def test_every_block_is_run_or_says_why_not() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = blocks(page)
        assert text.count("```") == 2 * len(found), f"{page.name}: a block that is not understood"
        for block in found:
            is_run, says_why = block["language"] in RUN, bool(block["reason"])
            assert is_run != says_why, f"{page.name}: {block[0]}"
            assert is_run or block["language"] in ("console", "text"), f"{page.name}: {block[0]}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_page_of_commands_is_as_generated() -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == commands_page(), (
        "run: python -m hiera_det.cli.commands_page > docs/commands.md"
    )
