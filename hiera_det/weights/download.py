"""From what a user writes to a local weight file: a path, a folder, a URL, a hub's repository or timm's name for one.

What was fetched stays in the caches of PyTorch's and Hugging Face's own tools, and is found there without network.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

import torch

from hiera_det.errors import InputError
from hiera_det.files import StrPath, write_atomically
from hiera_det.weights.sources import STANDARD_FILES, WEIGHT_SUFFIXES, find_weight_file, is_web_page, shard_names

__all__ = ["locate"]

logger = logging.getLogger("hiera_det.weights")

_FORMS = "a file, a folder, an http(s) URL, hf://owner/name or timm://name"
#: The authors' host; torch.hub keeps its files under their plain names, and so does everyone who downloads them.
_AUTHORS_HOST = "dl.fbaipublicfiles.com"
#: How long a server may be silent.
_TIMEOUT_S = 30
_CHUNK = 1 << 20
_SHOWN = 5
_HUB_FORM = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<file>.+))?")
#: The weights that timm takes for a model named without a tag.
_TIMM_TAGS = {
    **{f"hiera_{size}_224": "mae_in1k_ft_in1k" for size in ("tiny", "small", "base", "base_plus", "large", "huge")},
    "hiera_small_abswin_256": "sbb2_e200_in12k_ft_in1k",
    **{f"sam2_hiera_{size}": "fb_r896" for size in ("tiny", "small", "base_plus")},
    "sam2_hiera_large": "fb_r1024",
}


def locate(source: StrPath) -> Path:
    """Bring a weight file to this machine.

    Args:
        source: a file or a folder; an ``http(s)://`` URL; ``hf://owner/name``, if need be with ``@revision`` (a slash
            in it is written ``%2F``), then ``/file``; or ``timm://name``, the hub's repository ``timm/name``.

    Returns:
        a local file, not yet read; for shards, their index with the shards beside it.

    Raises:
        InputError: there is no such thing, it cannot be downloaded, or it leaves open which file is meant.
    """
    source = os.fspath(source)
    scheme, mark, rest = source.partition("://")
    if not mark:
        return _from_disk(source)
    if scheme.lower() in ("http", "https"):
        return _from_url(source)
    if scheme == "hf":
        return _from_hub(_parse_hub(source, rest))
    if scheme == "timm":
        return _from_hub(_parse_hub(source, f"timm/{_with_tag(rest)}"))
    raise InputError(f"weights {source!r}: {scheme}:// is not known; give {_FORMS}")


def _from_disk(source: str) -> Path:
    """A local file, or the one that a local folder holds."""
    path = Path(os.path.expanduser(source))
    if source and os.path.isdir(path):
        return find_weight_file(path)
    if os.path.isfile(path):
        return path
    beside: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        beside = os.listdir(path.parent)
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" (did you mean {path.parent / close[0]}?)" if close else ""
    raise InputError(f"weights {source!r}: no such file or folder{hint}; give {_FORMS}")


def _from_url(url: str) -> Path:
    """The cached file of a URL, downloaded where there is none yet."""
    place = _place(url)
    if os.path.isfile(place):
        return place
    logger.info("downloading %s to %s", url, place)
    try:
        _download(url, place)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise InputError(
            f"cannot download {url} ({_reason(error)}): download it by hand to {place}, "
            "or give the path of another file"
        ) from None
    return place


def _place(url: str) -> Path:
    """Where the cache keeps a URL; two URLs never share a place."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise InputError(f"weights {url!r}: a URL has neither blanks nor accents; write a blank as %20")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"weights {url!r} is no URL: {error}") from None
    host = parts.netloc.rpartition("@")[2].replace(":", "_").lower()
    folders = parts.path.split("/")[1:]
    if not host or not folders or any(part in ("", ".", "..") for part in [host, *folders]):
        raise InputError(f"weights {url!r}: a URL names a host and a file, without .. or empty parts")
    *folders, name = folders
    if parts.query:
        name = f"{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}-{name}"
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    return checkpoints / name if host == _AUTHORS_HOST else checkpoints.joinpath(host, *folders, name)


def _download(url: str, place: Path) -> None:
    """Download a file whole or not at all, so that other processes never see a part."""
    place.parent.mkdir(parents=True, exist_ok=True)
    request = urllib.request.Request(url, headers={"User-Agent": "hiera_det"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        write_atomically(place, lambda file: _copy(answer, file, url))


def _copy(answer: http.client.HTTPResponse, file: IO[bytes], url: str) -> None:
    """Write a server's answer to a file; one that ends early is an error, which Python leaves to its caller."""
    size = answer.length
    bar = torch.hub.tqdm(  # type: ignore[attr-defined]  # a silent stand-in where tqdm is not installed
        total=size, unit="B", unit_scale=True, unit_divisor=1024, disable=not _is_main_process()
    )
    with bar:
        for chunk in _chunks(answer):
            if not file.tell() and is_web_page(chunk):
                raise InputError(
                    f"cannot use {url}: it is a web page, not weights; give the address of the file itself "
                    f"(on huggingface.co: hf://owner/name), or download it by hand to {_place(url)}"
                )
            file.write(chunk)
            bar.update(len(chunk))
    if size is not None and file.tell() != size:
        raise http.client.HTTPException(f"the connection ended after {file.tell()} of {size} bytes")


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """A server's answer; what fails here is the network, not the disk."""
    try:
        while chunk := answer.read(_CHUNK):
            yield chunk
    except OSError as error:
        raise http.client.HTTPException(_reason(error)) from None


def _is_main_process() -> bool:
    """Whether this process reports for all."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


@dataclass(frozen=True)
class _HubAddress:
    """What an ``hf://`` or ``timm://`` address says; ``source`` is as the user wrote it."""

    source: str
    repo: str
    revision: str | None
    file: str | None


def _parse_hub(source: str, address: str) -> _HubAddress:
    """Take owner/name@revision/file apart."""
    parts = _HUB_FORM.fullmatch(address)
    if not parts or not address.isprintable() or any(part in ("", ".", "..") for part in address.split("/")):
        raise InputError(f"weights {source!r}: write hf://owner/name, hf://owner/name@revision/file or timm://name")
    revision = unquote(parts["revision"]) if parts["revision"] else None
    return _HubAddress(source, parts["repo"], revision, parts["file"])


def _with_tag(address: str) -> str:
    """A timm name with the tag that timm takes where none is given."""
    name, *rest = re.split(r"(?=[@/])", address, maxsplit=1)
    if "." in name or not name:
        return address
    if name not in _TIMM_TAGS:
        close = difflib.get_close_matches(name, _TIMM_TAGS, cutoff=0.5) or list(_TIMM_TAGS)
        raise InputError(f"weights 'timm://{address}': {name} has no known tag; did you mean {', '.join(close)}?")
    tagged = f"{name}.{_TIMM_TAGS[name]}"
    logger.info("timm://%s: no tag given, taking timm's default, %s", address, tagged)
    return tagged + "".join(rest)


def _from_hub(address: _HubAddress) -> Path:
    """A repository's file in the hub's own cache, brought there where needed."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # its HTTP library's
    except ImportError:
        raise InputError(f"{address.source} needs Hugging Face's client: pip install huggingface_hub") from None
    unreachable = (OSError, TransportError, json.JSONDecodeError)  # the last is a proxy's page
    try:
        info = huggingface_hub.model_info(address.repo, revision=address.revision, timeout=_TIMEOUT_S)
        name = _choose(address, [sibling.rfilename for sibling in info.siblings or []])
    except HFValidationError as error:
        raise InputError(f"weights {address.source!r}: {_reason(error)}") from None
    except unreachable as error:
        return _from_hub_cache(address, error)
    try:
        return _fetch(address, name)
    # Xet, the hub's way of moving large files, fails with a plain RuntimeError.
    except (*unreachable, RuntimeError) as error:
        raise _hub_error(address, error, name) from None


def _choose(address: _HubAddress, names: list[str]) -> str:
    """The file that the address names, or else the one weight file of the repository."""
    candidates = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    wanted = (address.file,) if address.file else STANDARD_FILES
    for name in wanted:
        if name in names:
            return name
    listed = ", ".join(candidates[:_SHOWN]) + (", ..." if len(candidates) > _SHOWN else "")
    if address.file:
        raise InputError(
            f"{address.source}: {address.repo} has no file {address.file}; it has {listed or 'no weights'}"
        )
    if not candidates:
        raise InputError(f"{address.source}: {address.repo} holds no weight file ({', '.join(WEIGHT_SUFFIXES)})")
    if len(candidates) > 1:
        raise InputError(
            f"{address.source}: {address.repo} holds {len(candidates)} weight files ({listed}): "
            f"name one, for example {address.source}/{candidates[0]}"
        )
    return candidates[0]


def _from_hub_cache(address: _HubAddress, error: Exception) -> Path:
    """What an earlier run fetched; else the error that made us look here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(address.repo, revision=address.revision, local_files_only=True, allow_patterns=[])
        path = _fetch(address, address.file or find_weight_file(Path(folder)).name, offline=True)
    except (LocalEntryNotFoundError, InputError):
        raise _hub_error(address, error, address.file or STANDARD_FILES[0]) from None
    logger.warning("%s: the hub cannot be asked (%s); taking %s from the cache", address.source, _reason(error), path)
    return path


def _fetch(address: _HubAddress, name: str, *, offline: bool = False) -> Path:
    """A file of the repository and, where it is an index, the shards of the same commit."""
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(address.repo, name, revision=address.revision, local_files_only=offline))
    if path.suffix == ".json":
        inside = PurePosixPath(name)
        commit = path.parents[len(inside.parts) - 1].name
        for shard in shard_names(path):
            hf_hub_download(address.repo, str(inside.with_name(shard)), revision=commit, local_files_only=offline)
    return path


def _hub_error(address: _HubAddress, error: Exception, name: str) -> InputError:
    """What the hub's refusal means to the user."""
    from huggingface_hub import errors, hf_hub_url

    start, page = f"{address.source}: {address.repo}", f"https://huggingface.co/{address.repo}"
    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{start} is gated: ask for access at {page}, then run `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"{start} does not exist or is private: check the name, or run `hf auth login`")
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{start} has no revision {address.revision}: see {page} for its branches and tags")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return InputError(f"{start} lacks a file that it names ({_reason(error)}): take another revision")
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return InputError(f"{start} may not be read with this login ({_reason(error)}): run `hf auth login`")
    url = hf_hub_url(address.repo, name, revision=address.revision)
    return InputError(
        f"{start} cannot be fetched ({_reason(error)}) and is not in the cache: "
        f"download {url} by hand and give its path"
    )


def _reason(error: BaseException) -> str:
    """An error's text in one line."""
    inner = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
    return " ".join(str(inner).split()) or type(error).__name__
