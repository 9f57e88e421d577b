"""docs/errors.md: all that the check can find, as a page.

``python -m hiera_det.data.coco.errors_page > docs/errors.md`` writes it anew.
"""

from __future__ import annotations

from hiera_det.data.coco.kinds import KINDS

__all__ = ["errors_page"]

_HEAD = """\
# What the check of a data set says

`hiera-det check train.json images` looks at a COCO JSON and its images; `hiera_det.check_dataset("train.json",
"images")` gives the same as a list of `Finding`. Training runs it too, without decoding pixels, and refuses the first
error in one line. `--fix OUT.json` writes a copy of the JSON in which everything is mended that is marked below: names,
areas and keys are put right, and annotations that cannot be used are left out; everything else stays as it is.

Links in the image folder are followed: data sets are often put together by them. A `file_name` itself must not lead out
of the folder, and only regular files are opened.

<!-- Written by `python -m hiera_det.data.coco.errors_page`: change hiera_det/data/coco/kinds.py instead. -->
"""
_TITLES = {
    "error": "Errors: training and evaluation refuse",
    "warning": "Warnings: they run, and may not do what you want",
    "note": "Notes: what is worth knowing",
}


def errors_page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    for severity, title in _TITLES.items():
        parts.append(f"\n## {title}\n\n| kind | what it means | what to do | `--fix` |\n|---|---|---|---|\n")
        parts += [
            f"| `{kind}` | {entry.means} | {entry.remedy or 'nothing'} | {'mends it' if entry.fixable else ''} |\n"
            for kind, entry in KINDS.items()
            if entry.severity == severity
        ]
    return "".join(parts)


if __name__ == "__main__":
    print(errors_page(), end="")
