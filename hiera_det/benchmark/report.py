"""What the benchmark found, as JSON and as the Markdown table that the README shows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hiera_det.errors import InputError
from hiera_det.files import write_atomically

__all__ = ["Report", "Row", "check_writable", "format_report", "read_report", "write_report"]


@dataclass(frozen=True)
class Row:
    """One model at one task.

    Attributes:
        height: of the images, in pixels.
        width: likewise.
        batch: images per step.
        task: see ``--task``.
        dtype: ``float32`` or ``bfloat16``.
        model: its name.
        baseline: the model that ``time_over_ours`` is over.
        median_ms: of a step.
        time_over_ours: median over the rounds of the time over the baseline's.
        peak_mib: what a step adds to the built model; None where it was not measured.
        gflop: operations of a step; None where they could not be counted.
        matrix_rate: GFLOP/s of the machine's matrix product beside this row; None where it was not measured.
        difference: from our float32 maps; None for other architectures and detectors.
    """

    height: int
    width: int
    batch: int
    task: str
    dtype: str
    model: str
    baseline: str
    median_ms: float
    time_over_ours: float
    peak_mib: float | None
    gflop: float | None
    matrix_rate: float | None
    difference: float | None

    @property
    def is_detector(self) -> bool:
        """Whether it is a whole detector, of which s/image is usual."""
        return self.task.startswith("detector")

    @property
    def gflop_per_s(self) -> float | None:
        """The rate at which the model worked."""
        return None if self.gflop is None else 1000 * self.gflop / self.median_ms

    @property
    def matrix_share(self) -> float | None:
        """That rate over the machine's."""
        if self.gflop_per_s is None or self.matrix_rate is None:
            return None
        return self.gflop_per_s / self.matrix_rate


@dataclass
class Report:
    """A run.

    Attributes:
        machine: the processor or GPU, and what of its state matters.
        device: ``cpu`` or ``cuda``.
        threads: PyTorch's.
        torch: its version.
        size: Hiera's.
        rounds: counted ones.
        rates: GFLOP/s of the matrix product by ``"float32 mm"`` and the like, before and after each of the rows' runs.
        rows: what was measured.
        checks: what `hiera_det.benchmark.checks` found.
    """

    machine: str
    device: str
    threads: int
    torch: str
    size: str
    rounds: int
    rates: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before hours are spent."""
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror}); choose another") from None
    if path.is_dir():
        raise InputError(f"--json {path}: is a folder; name a file in it")


def write_report(report: Report, path: Path) -> None:
    """Write the JSON in one step: a reader sees the old file or the new one."""
    content = asdict(report)
    for row, fields in zip(report.rows, content["rows"], strict=True):
        fields.update(gflop_per_s=row.gflop_per_s, matrix_share=row.matrix_share)
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), durable=False)


def read_report(path: Path) -> Report:
    """Read such a JSON.

    Raises:
        InputError: it cannot be read, or something else wrote it.
    """
    try:
        content = json.loads(path.read_text())
        rows = [Row(**{name: fields[name] for name in Row.__annotations__}) for fields in content["rows"]]
        return Report(**(content | {"rows": rows}))
    except OSError as error:
        raise InputError(f"--table {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"--table {path}: not valid JSON ({error})") from None
    except (KeyError, TypeError) as error:
        raise InputError(f"--table {path}: not a file that --json wrote ({error})") from None


def format_report(report: Report) -> str:
    """What was measured how, in a few lines, and the table."""
    if not report.rows:
        raise InputError("the file holds no rows: nothing had been measured when it was written")
    return "\n".join([*_header(report), "", *_table(report.rows)])


def _header(report: Report) -> list[str]:
    """Machine and definitions, for the columns that are there."""
    shared = _only(row.task for row in report.rows) + _only(row.dtype for row in report.rows)
    trunks = [f"hiera_{report.size}"] if any(not row.is_detector for row in report.rows) else []
    lines = [
        f"{', '.join([*trunks, *shared, report.device])}: {report.machine}, {report.threads} threads, "
        f"torch {report.torch}, medians of {report.rounds} interleaved rounds.",
        f"Time over ours: {_baselines(report.rows)}.",
    ]
    if any(row.difference is not None for row in report.rows):
        lines.append(
            "Difference: the largest between a model's maps and our float32 maps of the same attention, over the map's "
            "largest value; in bfloat16 that is everybody's own rounding, ours too."
        )
    if any(row.peak_mib is not None for row in report.rows):
        lines.append(
            "Peak: what a step adds to the built model and the optimizer's moments, in training with gradients."
        )
    if report.rates:
        rates = ", ".join(f"{way} {min(rates):.0f}-{max(rates):.0f}" for way, rates in report.rates.items())
        lines.append(
            f"Matrix rate in GFLOP/s, measured before and after each run: {rates}. The share is of the largest "
            f"beside the row{_fastest(report.rates)}."
        )
    return lines + [f"{asked}: {found}." for asked, found in report.checks.items()]


def _only(values: Iterable[str]) -> list[str]:
    """The value that all share, or nothing."""
    found = set(values)
    return list(found) if len(found) == 1 else []


def _baselines(rows: Sequence[Row]) -> str:
    """Which models times are over, each with those that stand over it."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        models = groups.setdefault(row.baseline, [])
        if row.model not in models:
            models.append(row.model)
    return "; ".join(f"over {baseline} for {', '.join(models)}" for baseline, models in groups.items())


def _fastest(rates: dict[str, list[float]]) -> str:
    """Names the faster way for each type that has several."""
    by_dtype: dict[str, list[str]] = {}
    for way in rates:
        by_dtype.setdefault(way.split()[0], []).append(way)
    faster = [max(ways, key=lambda way: max(rates[way])) for ways in by_dtype.values() if len(ways) > 1]
    return f" ({', '.join(faster)})" if faster else ""


# A column: its title, what a row says there, and what stands for a value that is missing.
Column = tuple[str, Callable[[Row], "str | float | None"], str, str]
COLUMNS: tuple[Column, ...] = (
    ("image, batch", lambda row: f"{row.height}x{row.width}, {row.batch}", "", ""),
    ("task", lambda row: row.task, "", ""),
    ("type", lambda row: row.dtype, "", ""),
    ("model", lambda row: row.model, "", ""),
    ("median ms", lambda row: row.median_ms, ".0f", ""),
    ("s/image", lambda row: row.median_ms / 1000 / row.batch if row.is_detector else None, ".3g", ""),
    ("images/s", lambda row: 1000 * row.batch / row.median_ms, ".3g", ""),
    ("time over ours", lambda row: row.time_over_ours, ".2f", ""),
    ("peak MiB over the weights", lambda row: row.peak_mib, ".0f", "not measured"),
    ("GFLOP", lambda row: row.gflop, ".1f", "not counted"),
    ("GFLOP/s", lambda row: row.gflop_per_s, ".0f", "not counted"),
    ("share of matrix rate", lambda row: row.matrix_share, ".0%", "not measured"),
    ("largest difference", lambda row: row.difference, ".1e", "other model"),
)
#: Left out where all rows say the same, which the header then says.
SHARED = ("task", "type")


def _table(rows: Sequence[Row]) -> list[str]:
    """Rows as Markdown; a column without any value is left out."""
    columns = [
        (title, [value(row) for row in rows], style, missing)
        for title, value, style, missing in COLUMNS
        if any(value(row) is not None for row in rows)
        and not (title in SHARED and len({value(row) for row in rows}) == 1)
    ]
    cells = [
        [missing if value is None else format(value, style) for value in values]
        for _, values, style, missing in columns
    ]
    lines = [[title for title, *_ in columns], *zip(*cells, strict=True)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return [head, f"|{'---|' * len(columns)}", *body]
