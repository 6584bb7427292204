"""The options of a command: flags, over a YAML recipe with the same names, over the defaults of dataclasses."""

import argparse
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .messages import one_line


class OptionParser(HfArgumentParser):
    """From flags to dataclasses; what is wrong with the flags is a `ValueError` of one sentence."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")

    def parse_args_into_dataclasses(self, args: list[str], **options: Any) -> tuple:
        _, unknown = self.parse_known_args(args)
        if unknown:
            self.error(f"unknown option {' '.join(unknown)}")
        return super().parse_args_into_dataclasses(args, look_for_args_file=False, **options)


def split_recipe(argv: list[str], prog: str) -> tuple[str | None, list[str]]:
    """The value of --recipe, which can hold required options, and the flags without it; `~` is the home folder.

    Raises:
        ValueError: --recipe without a value.
    """
    parser = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe")
    try:
        found, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; see {prog} --help") from error
    return found.recipe and os.path.expanduser(found.recipe), rest


def read_recipe(file: Path, keys: Collection[str]) -> dict[str, Any]:
    """Read a mapping of options to values, in which no key is none of `keys`.

    Raises:
        ValueError: it cannot be read, is no such mapping, or has another key; the message says which.
    """
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe '{file}' cannot be read ({type(error).__name__})") from error
    except yaml.YAMLError as error:
        raise ValueError(f"recipe '{file}' is not valid YAML: {one_line(error)}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe '{file}' must be a mapping of options to values")
    unknown = [key for key in recipe if key not in keys]
    if unknown:
        raise ValueError(f"recipe '{file}' has the unknown option '{unknown[0]}'")
    return recipe


def as_flags(recipe: dict[str, Any]) -> list[str]:
    """A recipe's keys and values as flags, so that both are checked alike; null leaves the default."""
    flags = []
    for name, value in recipe.items():
        if value is not None:
            flags += [f"--{name}", *map(_as_text, value if isinstance(value, list) else [value])]
    return flags


def _as_text(value: Any) -> str:
    """YAML takes `no` for false, which may have been meant as the word, as in `mixed_precision: no`; flags take it for both."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
