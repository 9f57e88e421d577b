"""Image files against the JSON's file names: which are not there, and where they are instead.

Exporters on other systems write names that mean a file without being its name: with backslashes, other letter case or
ending, accents in another Unicode form, ``%20``, or with folders in front that are not there. `find_images` looks for
such files, so that one step of advice leads through.

Links are followed: data sets are often put together by them. A name itself must not lead out of the folder.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

__all__ = ["Folder", "Located", "leads_outside", "locate"]

#: Endings that stand for one another when a file is looked for.
ENDINGS = frozenset((".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))


#: What Label Studio puts in front of the name of a file that is uploaded.
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
#: Letters and folders of a file name that is looked for; no system has longer paths, and few are deeper.
MAX_NAME, MAX_PARTS = 4096, 32


def leads_outside(name: str) -> bool:
    """Whether a file name is absolute or goes up out of the folder."""
    return os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir


@dataclass
class Folder:
    """A folder whose listings are read once, which on a network is far faster than asking for each file.

    Args:
        root: the folder.
    """

    root: str
    _entries: dict[str, dict[str, bool]] = field(default_factory=dict)
    _alike: dict[str, dict[str, str]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether ``name`` is a regular file in it, or a link to one."""
        folder, base = posixpath.split(name)
        if base in ("", ".", "..") or "\0" in name:
            return False
        # A name that is listed as a file needs no look of its own; what a link leads to does.
        is_link = self._listing(folder).get(base)
        return is_link is not None and (not is_link or os.path.isfile(os.path.join(self.root, name)))

    def links_outside(self, name: str) -> bool:
        """Whether ``name`` is a link that leads out of the folder."""
        folder, base = posixpath.split(name)
        if not self._listing(folder).get(base):
            return False
        return not os.path.realpath(os.path.join(self.root, name)).startswith(os.path.realpath(self.root) + os.sep)

    def resolve(self, name: str) -> str | None:
        """The file that ``name`` means when case, Unicode form and ending of the image do not count."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            return None
        path = ""
        for part in parts[:-1]:
            if not os.path.isdir(os.path.join(self.root, path, part)):
                part = self._alikes(path).get(_alike(part) + "/", "")
                if not part:
                    return None
            path = posixpath.join(path, part)
        if self.has(posixpath.join(path, parts[-1])):
            return posixpath.join(path, parts[-1])
        # The very name but for case and accents first, then any image of that stem.
        stem, ending = os.path.splitext(_alike(parts[-1]))
        alikes = self._alikes(path)
        found = alikes.get(stem + ending) or (alikes.get(stem + ".*") if ending in ENDINGS or not ending else None)
        return posixpath.join(path, found) if found else None

    def subfolders(self) -> list[str]:
        """Names of the folders in it, sorted."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except OSError:
            return []

    def _listing(self, folder: str) -> dict[str, bool]:
        """Names of the files in a folder, and of what may be one: a link."""
        if folder not in self._entries:
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    self._entries[folder] = {
                        entry.name: entry.is_symlink() for entry in entries if entry.is_symlink() or entry.is_file()
                    }
            except (OSError, ValueError):
                self._entries[folder] = {}
        return self._entries[folder]

    def _alikes(self, folder: str) -> dict[str, str]:
        """Names in a folder by what they have in common with others: files by name and by stem, folders with "/"."""
        if folder not in self._alike:
            found: dict[str, str] = {}
            for name in sorted(self._listing(folder)):
                stem, ending = os.path.splitext(_alike(name))
                for meant in (stem + ending, stem + ".*")[: 1 + (ending in ENDINGS)]:
                    found[meant] = "" if meant in found else name  # of two none is taken: that would be a guess
            for name in Folder(os.path.join(self.root, folder)).subfolders():
                found.setdefault(_alike(name) + "/", name)
            self._alike[folder] = found
        return self._alike[folder]


@dataclass(frozen=True)
class Located:
    """Where image files are that were looked for.

    Attributes:
        root: the folder to give as the image folder.
        names: for each missing file name that was found there, the name from that folder.
    """

    root: str
    names: dict[str, str]


def locate(missing: Sequence[str], root: str, *, are_all: bool) -> Located | None:
    """Look for missing files under other names and around the image folder; None if the first is nowhere.

    First as the name stands in the folders around, then by what it may mean.

    Args:
        missing: names that are no files in the image folder.
        root: the image folder.
        are_all: no image is in it, so that another image folder may be meant.
    """
    here = Folder(root)
    tries: list[tuple[Folder, bool | None]] = [(here, True), (here, False)]
    if are_all:
        others = [Folder(path) for path in _around(root, missing[0])]
        # Giving another folder is less to do than another JSON: before names are taken apart.
        tries[1:1] = [(other, None) for other in others]
        tries += [(other, True) for other in others]
    for folder, whole in tries:
        if _meant(missing[0], folder, whole):
            return Located(folder.root, {name: path for name in missing if (path := _meant(name, folder, whole))})
    found = {name: path for name in missing if (path := _below(name, here))}
    return Located(root, found) if missing[0] in found else None


def _below(name: str, folder: Folder) -> str | None:
    """The file that a name means in one of the folders within."""
    for sub in folder.subfolders():
        if found := folder.resolve(posixpath.join(sub, _slashed(name))):
            return found
    return None


def _around(root: str, name: str) -> Iterator[str]:
    """The folders above that the name has parts for, and those within."""
    parents = Path(os.path.abspath(root)).parents
    for parent in list(parents)[: min(_slashed(name).count("/"), MAX_PARTS)]:
        yield str(parent)
    for sub in Folder(root).subfolders():
        yield os.path.join(root, sub)


def _meant(name: str, folder: Folder, whole: bool | None) -> str | None:
    """The file of a folder that a name means; None if there is none.

    Args:
        name: as it stands in the JSON.
        folder: where to look.
        whole: None: the name as it stands; True: with all its folders; False: folders in front may be too many.
    """
    if whole is None:
        return name if not leads_outside(name) and folder.has(name) else None
    for form in _forms(_slashed(name)) if len(name) < MAX_NAME else ():
        parts = [part for part in form.split("/") if part not in ("", ".", "..")][-MAX_PARTS:]
        for dropped in range(1 if whole else len(parts)):
            if found := folder.resolve("/".join(parts[dropped:])):
                return found
    return None


def _forms(name: str) -> Iterator[str]:
    """What a name may stand for: itself, an address, or what Label Studio makes of it."""
    yield from dict.fromkeys((name, unquote(name)))
    address, _, query = name.partition("?")
    if query:
        yield unquote(address)
        if query.startswith("d="):  # /data/local-files/?d=folder/a.jpg
            yield unquote(query[2:])
    folder, base = posixpath.split(unquote(address))
    if uploaded := _UPLOADED.match(base):
        yield posixpath.join(folder, base[uploaded.end() :])


def differences(name: str, actual: str) -> str:
    """In which ways a name in the JSON differs from the file's, for a message."""
    found = []
    # In the order in which a name is undone: what is left of it is compared next.
    if "\\" in name:
        found.append("backslashes")
    name = _slashed(name)
    if "%" in name and unquote(name) != name and unquote(posixpath.basename(name)) != posixpath.basename(name):
        found.append("%20 and the like")
        name = unquote(name)
    if "?" in name:
        found.append("what follows '?'")
        name = next((form for form in _forms(name) if form.endswith(posixpath.basename(actual))), name)
    base, actual_base = posixpath.basename(name), posixpath.basename(actual)
    if _UPLOADED.match(base) and not _UPLOADED.match(actual_base):
        found.append("Label Studio's prefix")
    if posixpath.dirname(name).casefold() != posixpath.dirname(actual).casefold():
        found.append("leading folders")
    if os.path.splitext(base)[1].casefold() != os.path.splitext(actual_base)[1].casefold():
        found.append("ending")
    if unicodedata.normalize("NFC", base) != base or unicodedata.normalize("NFC", actual_base) != actual_base:
        found.append("Unicode form of accents")
    if unicodedata.normalize("NFC", name).casefold() in unicodedata.normalize("NFC", actual).casefold() and not found:
        found.append("letter case")
    return ", ".join(found) or "letter case"


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()
