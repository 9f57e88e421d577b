"""What a user writes becomes a local file: from a real server, through the real hub client, once and then the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hiera_det.errors import InputError
from hiera_det.weights.download import _TIMM_TAGS, locate
from hiera_det.weights.sources import read_weight_file

DEAD = "http://127.0.0.1:9"

#: Answers one address a line; the hub's client takes its settings from the environment when it is imported.
WORKER = """
import json, logging, sys
from hiera_det.errors import InputError
from hiera_det.weights.download import locate
from hiera_det.weights.sources import read_weight_file
print(json.dumps(sorted({"detectron2", "huggingface_hub", "timm"} & set(sys.modules))), flush=True)
logger, lines = logging.getLogger("hiera_det.weights"), []
logger.setLevel(logging.INFO)
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logger.addHandler(handler)
for line in sys.stdin:
    lines.clear()
    try:
        path = locate(json.loads(line))
        answer = {"path": str(path), "names": sorted(read_weight_file(path))}
    except InputError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"log": list(lines)}), flush=True)
"""


class Handler(BaseHTTPRequestHandler):
    """Files under their paths, and repositories as the hub serves them."""

    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        self.server.requests.append((self.command, self.path))
        if path.startswith("api/models/"):
            self.api(path.split("/")[2:])
        elif "/resolve/" in path:
            self.resolve(*path.split("/", 4))
        else:
            file = self.server.folder / path
            self.server.gathering.wait(timeout=30)
            self.answer(200 if file.is_file() else 404, file.read_bytes() if file.is_file() else b"gone")

    def api(self, parts: list[str]) -> None:
        """The description of a repository: ``owner/name`` or ``owner/name/revision/which``."""
        repo = self.server.folder / parts[0] / parts[1]
        revision = self.revision(repo, parts[3] if len(parts) > 3 else "main")
        if revision is None:
            return
        files = [str(file.relative_to(revision)) for file in sorted(revision.rglob("*")) if file.is_file()]
        content = {"id": "/".join(parts[:2]), "sha": commit(revision), "siblings": [{"rfilename": f} for f in files]}
        self.answer(200, json.dumps(content).encode())

    def resolve(self, owner: str, name: str, _: str, which: str, file: str) -> None:
        """One file of a repository."""
        repo = self.server.folder / owner / name
        revision = self.revision(repo, which)
        if revision is None:
            return
        if (repo / "gated").is_file():
            self.answer(401, b"", {"X-Error-Code": "GatedRepo"})
        elif not (revision / file).is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(revision)})
        else:
            content = (revision / file).read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, {"ETag": tag, "X-Repo-Commit": commit(revision)})

    def revision(self, repo: Path, which: str) -> Path | None:
        """The folder of a branch or commit, or None after the hub's answer to an unknown one."""
        if not repo.is_dir():
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        for revision in repo.iterdir():
            if revision.is_dir() and which in (revision.name, commit(revision)):
                return revision
        self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return None

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        promised = len(content) + self.server.withheld
        self.send_response(status)
        for name, value in ({"Content-Length": str(promised)} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A web server that can be stopped, and started again at the same address."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        #: Bytes that are promised and not sent.
        self.withheld = 0
        #: So many requests are waited for before any of them is answered.
        self.gathering = threading.Barrier(1)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Hub:
    """A hub in a folder, and a Python whose hub client knows only this hub."""

    def __init__(self, folder: Path) -> None:
        self.folder, cache = folder / "hub", folder / "cache"
        self.folder.mkdir()
        self.server = Server(self.folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        settings = {"HF_ENDPOINT": self.server.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=kept | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.imported = self.read()

    def read(self) -> Any:
        assert self.worker.stdout is not None
        return json.loads(self.worker.stdout.readline())

    def locate(self, source: str) -> dict[str, Any]:
        """What became of an address: a path and the names of its tensors, or the error's line; and the log."""
        assert self.worker.stdin is not None
        self.worker.stdin.write(json.dumps(source) + "\n")
        self.worker.stdin.flush()
        answer: dict[str, Any] = self.read()
        assert "\n" not in answer.get("error", "")
        return answer

    def publish(self, repo: str, files: dict[str, str], revision: str = "main") -> Path:
        """Put files, each with one tensor of the given name, into a repository."""
        folder = self.folder / repo / revision
        for name, tensor in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_file({tensor: torch.ones(2)}, folder / name)
        return folder

    def vanish(self) -> None:
        self.server.stop()

    def come_back(self) -> None:
        self.server = Server(self.folder, self.server.server_port)

    def close(self) -> None:
        self.worker.kill()
        self.worker.communicate()
        self.server.stop()


def commit(revision: Path) -> str:
    """A revision's hash; the same for the same place."""
    return hashlib.sha1(str(revision).encode()).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of files; PyTorch's cache is an empty one."""
    (tmp_path / "www").mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = Server(tmp_path / "www")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def _one_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.close()


@pytest.fixture
def hub(_one_hub: Hub) -> Iterator[Hub]:
    """The hub, reachable; tests share it and its cache, so each has repositories of its own."""
    _one_hub.server.requests.clear()
    yield _one_hub
    if _one_hub.server.socket.fileno() == -1:
        _one_hub.come_back()


def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "torch" / "hub" / "checkpoints"


def cached(tmp_path: Path) -> list[str]:
    """All files in PyTorch's cache."""
    place = checkpoints(tmp_path)
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def refusal(source: str) -> str:
    """The one line with which locating ends."""
    with pytest.raises(InputError) as caught:
        locate(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_itself_and_a_folder_gives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert locate(str(path)) == locate(str(tmp_path)) == locate("~/weights.pth") == locate("~") == path
    assert locate("weights.pth") == Path("weights.pth")


@pytest.mark.parametrize("source", ["", "gone.pth", "no/such/folder/a.pth", "nul\0.pth", "hf:owner/name"])
def test_a_path_to_nothing_tells_what_may_be_written(source: str) -> None:
    assert "no such file or folder; give a file, a folder, an http(s) URL, hf://owner/name or timm" in refusal(source)


def test_a_misspelt_path_is_mended(tmp_path: Path) -> None:
    (tmp_path / "mae_hiera_tiny_224.pth").touch()
    line = refusal(str(tmp_path / "mae_hiera_tiny224.pth"))
    assert f"did you mean {tmp_path / 'mae_hiera_tiny_224.pth'}?" in line


OTHERS = ["s3://bucket/a.pth", "ftp://host/a.pth", "://"]
NO_HUB = ["hf://", "hf://name", "hf://owner/name@", "hf://owner/name/../a.pth", "hf://owner//name", "hf://owner/na\nme"]
NO_URL = ["http://", "http://host", "http://host/a/", "http://[host/a", "http://host/a b", "http://host/\u00e4"]
NO_URL += ["http://host/a/../b", "http://../a", "http://host//a"]


@pytest.mark.parametrize("source", [*OTHERS, *NO_HUB, *NO_URL, "timm://"])
def test_a_malformed_address_is_named(source: str) -> None:
    assert f"weights {source!r}" in refusal(source)


def test_a_url_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, server.folder / "weights.pth")
    first = locate(f"{server.url}/weights.pth")
    assert locate(f"{server.url}/weights.pth") == first
    assert server.requests == [("GET", "/weights.pth")]
    assert read_weight_file(first)["a"].tolist() == [1, 1]
    assert cached(tmp_path) == [f"127.0.0.1_{server.server_port}/weights.pth"]


def test_urls_that_end_alike_do_not_collide(server: Server) -> None:
    urls = []
    for name in ("one", "two"):
        (server.folder / name).mkdir()
        torch.save({name: torch.ones(1)}, server.folder / name / "model.pth")
        urls += [f"{server.url}/{name}/model.pth", f"{server.url}/{name}/model.pth?v=1"]
    places = [locate(url) for url in urls]
    assert len(set(places)) == 4
    assert [list(read_weight_file(place)) for place in places] == [["one"], ["one"], ["two"], ["two"]]
    digest = hashlib.sha256(b"v=1").hexdigest()[:8]
    assert places[1].name == f"{digest}-model.pth"


def test_the_authors_files_are_shared_with_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    place = checkpoints(tmp_path) / "hiera_tiny_224.pth"
    place.parent.mkdir(parents=True)
    place.touch()
    assert locate("https://dl.fbaipublicfiles.com/hiera/hiera_tiny_224.pth") == place


def test_a_downloaded_file_stays_when_the_server_is_gone(server: Server) -> None:
    torch.save({}, server.folder / "weights.pth")
    place = locate(f"{server.url}/weights.pth")
    server.stop()
    assert locate(f"{server.url}/weights.pth") == place


def test_a_web_page_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    (server.folder / "weights.pth").write_text("<!DOCTYPE html><title>Log in</title>")
    assert f"{server.url}/weights.pth: it is a web page" in refusal(f"{server.url}/weights.pth")
    assert cached(tmp_path) == []


def test_a_download_that_ends_early_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    torch.save({}, server.folder / "weights.pth")
    server.withheld = 5
    assert "the connection ended after" in refusal(f"{server.url}/weights.pth")
    assert cached(tmp_path) == []


@pytest.mark.parametrize("fault", ["404", "unreachable"])
def test_a_failed_download_names_the_url_the_reason_and_the_place(server: Server, tmp_path: Path, fault: str) -> None:
    url = f"{server.url if fault == '404' else DEAD}/weights.pth"
    line = refusal(url)
    assert f"cannot download {url} (" in line
    assert ("404" if fault == "404" else "refused") in line
    place = Path(line.partition("by hand to ")[2].partition(",")[0])
    place.touch()
    assert locate(url) == place


def test_two_processes_download_at_once(server: Server, tmp_path: Path) -> None:
    torch.save({"a": torch.arange(100_000)}, server.folder / "weights.pth")
    server.gathering = threading.Barrier(2)
    script = "import sys; from hiera_det.weights.download import locate; print(locate(sys.argv[1]))"
    command = [sys.executable, "-c", script, f"{server.url}/weights.pth"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0].strip() for process in both)
    assert first == second
    assert len(read_weight_file(first)["a"]) == 100_000
    assert len(server.requests) == 2
    assert cached(tmp_path) == [f"127.0.0.1_{server.server_port}/weights.pth"]


def test_importing_brings_in_no_hub_and_no_detector(hub: Hub) -> None:
    assert hub.imported == []


def test_a_repository_gives_the_file_of_the_standard_name(hub: Hub) -> None:
    hub.publish("facebook/sam2", {"sam2.pt": "original", "model.safetensors": "standard", "pytorch_model.bin": "old"})
    for _ in range(2):
        answer = hub.locate("hf://facebook/sam2")
        assert answer["names"] == ["standard"]
        assert Path(answer["path"]).name == "model.safetensors"
    gets = [path for command, path in hub.server.requests if command == "GET" and "/resolve/" in path]
    assert gets == ["/facebook/sam2/resolve/main/model.safetensors"]


def test_a_file_inside_a_repository_is_taken(hub: Hub) -> None:
    hub.publish("owner/inside", {"model.safetensors": "standard", "sub/file.pt": "inside"})
    assert hub.locate("hf://owner/inside/sub/file.pt")["names"] == ["inside"]
    line = hub.locate("hf://owner/inside/sub/fiel.pt")["error"]
    assert "owner/inside has no file sub/fiel.pt; it has model.safetensors, sub/file.pt" in line


def test_a_revision_is_taken(hub: Hub) -> None:
    hub.publish("owner/revisions", {"model.safetensors": "new"})
    old = hub.publish("owner/revisions", {"model.safetensors": "old", "a.pt": "inside"}, "v1.0")
    assert hub.locate("hf://owner/revisions")["names"] == ["new"]
    assert hub.locate("hf://owner/revisions@v1.0")["names"] == ["old"]
    assert hub.locate(f"hf://owner/revisions@{commit(old)}")["names"] == ["old"]
    assert hub.locate("hf://owner/revisions@v1.0/a.pt")["names"] == ["inside"]
    assert "has no revision v2" in hub.locate("hf://owner/revisions@v2")["error"]


def test_an_index_brings_its_shards(hub: Hub) -> None:
    folder = hub.publish("owner/shards", {"1.safetensors": "a", "2.safetensors": "b", "sub/3.safetensors": "c"})
    for place, weight_map in {".": {"a": "1.safetensors", "b": "2.safetensors"}, "sub": {"c": "3.safetensors"}}.items():
        (folder / place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    inside = "hf://owner/shards/sub/model.safetensors.index.json"
    assert hub.locate("hf://owner/shards")["names"] == ["a", "b"]
    assert hub.locate(inside)["names"] == ["c"]
    hub.vanish()
    assert hub.locate("hf://owner/shards")["names"] == ["a", "b"]
    assert hub.locate(inside)["names"] == ["c"]


@pytest.mark.parametrize(
    ("shard", "says"), [("../../secret.safetensors", "names the shard '../../secret"), ("gone.bin", "lacks a file")]
)
def test_an_index_that_names_what_is_not_there_is_refused(hub: Hub, shard: str, says: str) -> None:
    folder = hub.publish(f"owner/bad-{shard[-6:]}", {"one.safetensors": "a"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    assert says in hub.locate(f"hf://owner/bad-{shard[-6:]}")["error"]


def test_the_only_weight_file_of_a_repository_is_taken(hub: Hub) -> None:
    folder = hub.publish("owner/only", {"sam2.1_hiera_tiny.pt": "only"})
    (folder / "README.md").write_text("weights")
    assert hub.locate("hf://owner/only")["names"] == ["only"]
    hub.publish("owner/only", {"another.pt": "other"})
    line = hub.locate("hf://owner/only")["error"]
    assert "holds 2 weight files (another.pt, sam2.1_hiera_tiny.pt): name one" in line
    (hub.folder / "owner" / "empty" / "main").mkdir(parents=True)
    assert "holds no weight file" in hub.locate("hf://owner/empty")["error"]


def test_what_may_not_be_read_asks_for_a_login(hub: Hub) -> None:
    hub.publish("owner/gated", {"model.safetensors": "a"})
    (hub.folder / "owner" / "gated" / "gated").touch()
    assert "owner/gated is gated: ask for access at" in hub.locate("hf://owner/gated")["error"]
    line = hub.locate("hf://owner/nothing")["error"]
    assert "owner/nothing does not exist or is private" in line
    assert "hf auth login" in line
    assert "weights 'hf://owner/na--me'" in hub.locate("hf://owner/na--me")["error"]


def test_without_network_the_cache_answers(hub: Hub) -> None:
    hub.publish("owner/kept", {"model.safetensors": "a", "sub/b.pt": "b"})
    hub.publish("owner/single", {"only.pt": "c"})
    sources = ["hf://owner/kept", "hf://owner/kept/sub/b.pt", "hf://owner/single"]
    online = [hub.locate(source) for source in sources]
    hub.vanish()
    for source, before in zip(sources, online, strict=True):
        after = hub.locate(source)
        assert after["path"] == before["path"]
        assert "the hub cannot be asked" in after["log"][-1]


@pytest.mark.parametrize("suffix", ["", "@v1", "/sub/a.pt"])
def test_without_network_and_cache_the_file_to_fetch_is_named(hub: Hub, suffix: str) -> None:
    hub.publish("owner/unseen", {"model.safetensors": "a"})
    hub.vanish()
    line = hub.locate(f"hf://owner/unseen{suffix}")["error"]
    revision, file = "v1" if suffix == "@v1" else "main", "sub/a.pt" if "/" in suffix else "model.safetensors"
    assert f"download {hub.server.url}/owner/unseen/resolve/{revision}/{file} by hand" in line


def test_without_the_hubs_client_its_install_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in refusal("hf://owner/name")


def test_a_timm_name_is_its_repository(hub: Hub) -> None:
    hub.publish("timm/hiera_base_224.mae", {"model.safetensors": "mae"})
    hub.publish("timm/hiera_base_224.mae_in1k_ft_in1k", {"model.safetensors": "tuned", "a.pt": "inside"})
    assert hub.locate("timm://hiera_base_224.mae")["names"] == ["mae"]
    answer = hub.locate("timm://hiera_base_224")
    assert answer["names"] == ["tuned"]
    assert "taking timm's default, hiera_base_224.mae_in1k_ft_in1k" in answer["log"][0]
    assert hub.locate("timm://hiera_base_224@main/a.pt")["names"] == ["inside"]


def test_a_timm_name_without_a_known_tag_is_named_with_its_likes() -> None:
    assert "hiera_bse_224 has no known tag; did you mean hiera_base_224" in refusal("timm://hiera_bse_224")


def test_the_default_tags_are_timms() -> None:
    from timm.models import get_pretrained_cfg

    assert {name: get_pretrained_cfg(name).tag for name in _TIMM_TAGS} == _TIMM_TAGS


def test_a_download_is_told_in_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({}, server.folder / "weights.pth")
    with caplog.at_level(logging.INFO, "hiera_det.weights"):
        place = locate(f"{server.url}/weights.pth")
    assert f"downloading {server.url}/weights.pth to {place}" in caplog.text
