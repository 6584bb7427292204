"""Options of `distill_dataset.py`: flags, or a YAML recipe with the same names; flags override the recipe."""

import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from modeling_unirain.distillation.reference_index import IndexSettings
from modeling_unirain.distillation.retrieval import RetrievalSettings
from modeling_unirain.files import as_path
from modeling_unirain.messages import first_line
from modeling_unirain.options import OptionParser, as_flags, read_recipe, split_recipe


PRESETS = ("paper", "local")


@dataclass
class DistillationArguments:
    """What is distilled, how it is retrieved and voted on, and where it goes."""

    candidates: list[str] = field(
        metadata={
            "help": "Data sets of pairs: folders with TYPE/NAME/{input,target} or TYPE/NAME/pair, Parquet files, folders of "
            "`datasets`, Hub ids (ORG/NAME, ORG/NAME@revision, ORG/NAME:split)."
        }
    )
    references: list[str] = field(
        metadata={"help": "Real rainy photographs without clean twins: folders of any depth, Parquet files, Hub ids."}
    )
    work_dir: str = field(metadata={"help": "Intermediate tables. Keep it: a killed run goes on from here."})
    output_dir: str = field(metadata={"help": "The distilled corpus, its card and the report."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Publish the corpus as ORG/NAME when it is done."})
    private: bool = field(
        default=True, metadata={"help": "Visibility of the published corpus; --private false to share it."}
    )
    license: str = field(
        default="other",
        metadata={
            "help": "Licence of the published corpus: the strictest of its sources, as an identifier of the Hub."
        },
    )
    k1: int = field(default=100, metadata={"help": "References kept by the distance of the captions."})
    k2: int = field(default=20, metadata={"help": "Of these, references kept by the visual features."})
    k3: int = field(default=3, metadata={"help": "Of these, references kept by SSIM: what the judges see."})
    index: str = field(default="auto", metadata={"help": "exact, ivf, or auto: ivf from 200,000 references on."})
    index_lists: int | None = field(default=None, metadata={"help": "Cells of an IVF index; default 4 sqrt(n)."})
    index_probes: int = field(default=32, metadata={"help": "Cells of an IVF index that a query looks into."})
    min_votes: int | None = field(
        default=None, metadata={"help": "Judges that must say yes; default: more than half (two of three)."}
    )
    drop_duplicates: bool = field(
        default=True, metadata={"help": "Of pairs with one rainy picture keep only the first that was voted for."}
    )
    rejected_images: bool = field(
        default=False,
        metadata={"help": "Put the rejected pairs' pictures into the corpus too, not only their record."},
    )
    shard_size: int = field(
        default=512, metadata={"help": "Pairs of a work shard at most: what a kill can lose, per stage."}
    )
    rows_per_file: int = field(default=1000, metadata={"help": "Pairs of an output file."})
    batch_size: int = field(default=16, metadata={"help": "Pictures or cases that a model gets at a time."})
    wait_timeout: float = field(
        default=3600.0, metadata={"help": "Seconds to wait for other processes without a sign that any is at work."}
    )

    def __post_init__(self) -> None:
        self.work_dir, self.output_dir = as_path(self.work_dir), as_path(self.output_dir)
        self.candidates = [os.path.expanduser(place) for place in self.candidates]
        self.references = [os.path.expanduser(place) for place in self.references]
        if not self.candidates:
            raise ValueError("there are no candidates: name a data set of pairs with --candidates")
        if not self.references:
            raise ValueError("there are no references: name a folder of real rainy photographs with --references")
        for name in ("shard_size", "rows_per_file", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if not re.fullmatch(r"\w[\w.+-]*", self.license):
            raise ValueError(
                f"--license must be an identifier of the Hub such as cc-by-4.0 or other, not {self.license!r}"
            )
        if self.min_votes is not None and self.min_votes < 1:
            raise ValueError(f"--min_votes must be at least 1, not {self.min_votes}")
        if not 0 < self.wait_timeout < math.inf:
            raise ValueError(f"--wait_timeout must be a positive number of seconds, not {self.wait_timeout}")
        # Both check their own values: better now than after hours.
        self.retrieval_settings = RetrievalSettings(self.k1, self.k2, self.k3)
        self.index_settings = IndexSettings(self.index, self.index_lists, self.index_probes)


@dataclass
class BackendArguments:
    """Who captions, embeds and judges. Each option replaces that part of the preset."""

    preset: str = field(
        default="paper",
        metadata={"help": "paper: BLIP, CLIP and three vision language models; local: needs no download."},
    )
    captioner: str | None = field(default=None, metadata={"help": "Hub id or folder of a captioning model."})
    text_embedder: str | None = field(default=None, metadata={"help": "Hub id or folder of a text encoder."})
    image_embedder: str | None = field(default=None, metadata={"help": "Hub id or folder of an image encoder."})
    judges: list[str] | None = field(
        default=None,
        metadata={
            "help": "Judges: Hub ids or folders of vision language models, URL#MODEL of OpenAI-compatible endpoints, "
            "or names of the local preset's judges."
        },
    )
    prompt_file: str | None = field(default=None, metadata={"help": "Prompt template for the judges; default: ours."})
    concurrency: int = field(default=8, metadata={"help": "Requests that an endpoint gets at a time."})
    device: str | None = field(
        default=None,
        metadata={"help": "cpu, cuda, cuda:1, mps; default: what there is; the CPU for the local preset's embedders."},
    )

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"--preset is {' or '.join(PRESETS)}, not '{self.preset}'")
        if self.concurrency < 1:
            raise ValueError(f"--concurrency must be at least 1, not {self.concurrency}")
        if self.device is not None:
            try:
                torch.empty(0, device=self.device)
            except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own, differing by device
                raise ValueError(f"the device {self.device} cannot be used here: {first_line(error)}") from error
        # A Hub id begins with no tilde: what does is a folder below somebody's home, and stays text as the ids do.
        for name in ("captioner", "text_embedder", "image_embedder", "prompt_file"):
            setattr(self, name, getattr(self, name) and os.path.expanduser(getattr(self, name)))
        self.judges = self.judges and [os.path.expanduser(judge) for judge in self.judges]
        if self.prompt_file is not None and not Path(self.prompt_file).is_file():
            raise ValueError(f"there is no prompt file {self.prompt_file}")


def parse_arguments(argv: list[str]) -> tuple[DistillationArguments, BackendArguments]:
    """Flags over a recipe over defaults.

    Raises:
        ValueError: an unknown option or a value that cannot be; the message says which.
    """
    prog = "distill_dataset.py"
    parser = OptionParser(
        [DistillationArguments, BackendArguments],
        prog=prog,
        usage=f"python {prog} --preset paper|local --candidates DIR... --references DIR... "
        "--work_dir DIR --output_dir DIR [--option VALUE ...]",
        description="Distils data sets of rainy pairs to those that look like real rain (UniRain, section 3.2).",
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", help="A YAML file with these options; flags override it.")
    recipe_name, flags = split_recipe(argv, prog)
    options = {option.name for option in (*fields(DistillationArguments), *fields(BackendArguments))}
    recipe = read_recipe(Path(recipe_name), options) if recipe_name else {}
    distillation, backends, _ = parser.parse_args_into_dataclasses(as_flags(recipe) + flags)
    return distillation, backends
