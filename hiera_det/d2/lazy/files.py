"""Loading a LazyConfig, which is a Python program, and setting its nodes by ``key=value`` pairs."""

from __future__ import annotations

import difflib
import inspect
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hiera_det.d2.config.files import find_config, listed_configs
from hiera_det.errors import InputError

__all__ = ["load_lazy_config", "walk"]

#: What training and evaluation read.
REQUIRED = (
    *("model", "dataloader.train", "dataloader.test", "dataloader.evaluator", "optimizer.params", "lr_multiplier"),
    *("train.max_iter", "train.output_dir", "train.checkpointer"),
)


def load_lazy_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Run a LazyConfig's program and apply ``key=value`` pairs, in Hydra's grammar.

    Args:
        config_file: path of a Python file, or the name of one of this project's.
        overrides: ``optimizer.lr=1e-4`` and the like. A key must be there already, or be an argument of the callable
            whose node it is put into; ``+key=value`` sets any.

    Raises:
        InputError: the program fails or lacks a node, or a pair cannot be used; one line.
    """
    if not config_file:
        raise InputError(f"--config-file is missing: give a LazyConfig, or one of {listed_configs('lazy/*.py')}")
    config_file = find_config(config_file, "lazy/*.py")
    if not config_file.endswith(".py"):
        raise InputError(f"--config-file {config_file}: LazyConfigs are .py files; YAML is for tools/train_net.py")
    try:
        cfg = LazyConfig.load(config_file)
    except Exception as error:  # whatever the user's program raises
        raise InputError(f"{_place(error, config_file)}: {type(error).__name__}: {_one_line(error)}") from error
    for node in REQUIRED:
        if OmegaConf.select(cfg, node, throw_on_resolution_failure=False) is None:
            raise InputError(f"{config_file}: defines no {node}, which is needed")
    for override in overrides:
        _override(cfg, override)
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"config node {error.full_key}: {_one_line(error)}") from None
    return cfg


def _place(error: BaseException, config_file: str) -> str:
    """File and line in which a program failed."""
    error = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{config_file} line {error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    inside = f"{last.filename} line {last.lineno}"
    return inside if last.filename == config_file else f"{config_file}: {inside}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _override(cfg: DictConfig, override: str) -> None:
    """Set one node, in place."""
    name, equals, _ = override.partition("=")
    key = name.lstrip("+")
    if name.startswith("-"):
        raise InputError(f"flag {override} stands after the key=value pairs: put flags before them")
    if not equals or not key:
        raise InputError(f"{override}: give key=value, such as optimizer.lr=1e-4")
    try:
        if not name.startswith("+"):
            _check_known(cfg, key)
        LazyConfig.apply_overrides(cfg, [override])
    except InputError:
        raise
    except Exception as error:  # Hydra's and OmegaConf's own errors are of many kinds
        text = override.partition("=")[2]
        hint = f"; a text with a comma is quoted inside too: '{key}=\"{text}\"'" if "," in text else ""
        raise InputError(f"{override}: {_one_line(error)}{hint}") from None


def _check_known(cfg: DictConfig, key: str) -> None:
    """Refuse a key that is neither there nor an argument of the callable whose node it would be put into."""
    parent_key, _, leaf = key.replace("[", ".").replace("]", "").rpartition(".")
    parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    if isinstance(parent, DictConfig):
        target = parent.get("_target_")
        target = locate(target) if isinstance(target, str) else target
        if leaf in parent or (callable(target) and leaf in inspect.signature(target).parameters):
            return
    if isinstance(parent, ListConfig) and leaf.isdigit() and int(leaf) < len(parent):
        return
    names = [name for name, _ in walk(OmegaConf.to_container(cfg, resolve=False))]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"unknown config key {key}{hint} (+{key}=... sets it all the same)")


def walk(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names and values of all that a plain container holds, callables left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        if key != "_target_":
            yield f"{prefix}{key}", child
            yield from walk(child, f"{prefix}{key}.")
