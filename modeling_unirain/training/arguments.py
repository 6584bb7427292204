"""What a training run can be told: dataclasses, filled from a YAML recipe and from flags that override it.

A recipe's flat keys are the flags without their dashes; what does not fit a flag is nested and comes from the recipe
only: `data` and `validation` (the sources, see `training.data`), `phases` (progressive patches) and `model_overrides`.
"""

import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from modeling_unirain.files import as_path
from modeling_unirain.options import OptionParser, as_flags, read_recipe, split_recipe

from .losses import Loss


RECIPES = Path(__file__).with_name("recipes")
NESTED_KEYS = {"data": dict, "validation": dict, "phases": list, "model_overrides": dict}
TRACKERS = ("tensorboard", "wandb")


@dataclass
class ModelArguments:
    """Which network is trained, and from which weights it starts."""

    _argument_group_name = "model"

    model: str = field(default="unirain", metadata={"help": "Named size: unirain, unirain-base or unirain-tiny."})
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Start from these weights (a folder, a bundled name or a Hub id) with a new optimizer. Their "
            "config must be the run's. To continue a run, use --resume_from."
        },
    )

    def __post_init__(self):
        if self.init_from is not None:
            # As text: a `Path` drops the `./` that tells a folder from one of our names.
            self.init_from = os.path.expanduser(self.init_from)


@dataclass
class ObjectiveArguments:
    """How the losses of the types are weighed; see `training.objective.MultiObjectiveReweighting`."""

    _argument_group_name = "objective"

    objective_mode: Literal["unirain", "fixed", "released"] = field(
        default="unirain",
        metadata={"help": "The paper's equations, equal weights throughout, or what the authors' script computes."},
    )
    objective_window: int = field(default=10, metadata={"help": "N, rounds a slope is fitted to."})
    objective_tau: float = field(default=5.0, metadata={"help": "Temperature of the adaptivity factor."})
    objective_warmup_rounds: int = field(default=10, metadata={"help": "Validation rounds with equal weights."})
    objective_denominator: Literal["abs", "signed"] = field(
        default="abs", metadata={"help": "Sum in the adaptivity factor: of absolute values, or signed as printed."}
    )
    objective_min_weight: float | None = field(default=None, metadata={"help": "No type's weight falls below this."})

    def as_options(self) -> dict[str, Any]:
        """Keyword arguments of `MultiObjectiveReweighting`."""
        return {name.removeprefix("objective_"): value for name, value in asdict(self).items()}


@dataclass
class TrainingArguments:
    """The loop. Defaults are the paper's (section 4.1) where it gives one; the rest is ours, as each help says."""

    _argument_group_name = "training"

    output_dir: str = field(default="runs/unirain", metadata={"help": "Checkpoints, logs, pictures and the export."})
    resume_from: str | None = field(
        default=None,
        metadata={
            "help": "last (starts anew where there is none), best, or a checkpoint's folder. Checkpoints hold pickled "
            "states: resume only from your own."
        },
    )
    seed: int = field(default=0, metadata={"help": "Everything random follows from it."})
    max_steps: int = field(default=300_000, metadata={"help": "Optimizer steps of the whole run."})
    max_minutes: float | None = field(
        default=None, metadata={"help": "Stop after this long, save and export what there is; --resume_from goes on."}
    )
    batch_size: int = field(default=8, metadata={"help": "Images a forward pass, over all processes together."})
    patch_size: int = field(default=128, metadata={"help": "Side of the square crops, in pixels."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Forward passes an optimizer step."})
    learning_rate: float = field(default=2e-4, metadata={"help": "Peak of the cosine."})
    min_learning_rate: float = field(default=1e-6, metadata={"help": "End of the cosine."})
    warmup_steps: int = field(default=500, metadata={"help": "Linear warm-up (not in the paper)."})
    loss: Loss = field(
        default="l1",
        metadata={
            "help": "Of every sample: l1 (the paper's) or psnr, its logarithmic mean square. The objective's weights follow "
            "the L1 of the validation pictures either way."
        },
    )
    optimizer: Literal["adamw", "muon"] = field(
        default="adamw",
        metadata={
            "help": "adamw, or muon: Muon for dense kernels, AdamW for the rest (not in the paper), at AdamW's learning rates."
        },
    )
    weight_decay: float = field(default=1e-4, metadata={"help": "Of weights only (Restormer's value)."})
    adam_beta1: float = field(default=0.9, metadata={"help": "Of AdamW."})
    adam_beta2: float = field(default=0.999, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm; 0 leaves them."})
    ema_decay: float = field(
        default=0.999, metadata={"help": "Of the averaged weights that are validated and exported; 0 for no average."}
    )
    router_balance_coef: float = field(
        default=5e-5,
        metadata={
            "help": "Weight of the load-balancing loss of the hard routers over the images of a forward pass (not in the paper)."
        },
    )
    router_deviation: float = field(
        default=0.0,
        metadata={
            "help": "At the start, draw the hard routers anew with logits that deviate this much between training "
            "samples (not in the paper; 2 is decisive); 0 leaves them."
        },
    )
    mixed_precision: Literal["no", "bf16"] = field(default="no", metadata={"help": "bf16 autocast or full float32."})
    channels_last: bool = field(
        default=True, metadata={"help": "Memory format of the network; faster on CPU and GPU."}
    )
    cpu: bool = field(default=False, metadata={"help": "Train on the CPU even where there is a GPU."})
    num_workers: int = field(default=2, metadata={"help": "Processes that load data; 0 loads in the training one."})
    logging_steps: int = field(default=50, metadata={"help": "Steps between two lines of the log."})
    validation_steps: int = field(default=1000, metadata={"help": "Steps a validation round of the objective."})
    save_steps: int = field(default=1000, metadata={"help": "Steps between two checkpoints."})
    save_minutes: float | None = field(default=15.0, metadata={"help": "And at least this often."})
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints kept, not counting the best one."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers: tensorboard, wandb; none for only the files."}
    )
    license: str = field(
        default="other",
        metadata={
            "help": "Licence of the exported weights on their card, as the Hub spells it; depends on your data."
        },
    )

    def __post_init__(self):
        self.output_dir = as_path(self.output_dir)
        self.report_to = [name for name in self.report_to if name != "none"]
        unknown = sorted(set(self.report_to) - set(TRACKERS))
        if unknown:
            raise ValueError(f"--report_to knows {', '.join(TRACKERS)} and none, not '{unknown[0]}'.")
        at_least = {
            1: (
                "max_steps batch_size patch_size gradient_accumulation_steps logging_steps validation_steps "
                "save_steps save_total_limit"
            ),
            0: (
                "warmup_steps weight_decay max_grad_norm router_balance_coef router_deviation num_workers "
                "min_learning_rate seed"
            ),
        }
        for bound, names in at_least.items():
            for name in names.split():
                if not bound <= getattr(self, name) < math.inf:
                    raise ValueError(f"--{name} must be at least {bound} and finite, not {getattr(self, name)}.")
        for name in ("learning_rate", "max_minutes", "save_minutes"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} must be positive and finite, not {getattr(self, name)}.")
        for name in ("ema_decay", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} must lie in [0, 1), not {getattr(self, name)}.")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"--min_learning_rate {self.min_learning_rate} is above --learning_rate {self.learning_rate}."
            )
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"--warmup_steps {self.warmup_steps} leaves nothing of --max_steps {self.max_steps}.")


@dataclass
class Phase:
    """A part of the run with its own crops: small patches in large batches first, larger ones later (progressive
    learning, Restormer section 4; not in the paper)."""

    until_step: int
    """The phase ends when this many optimizer steps of the run are done."""
    patch_size: int
    batch_size: int


@dataclass
class Arguments:
    """Everything `train_unirain.main` takes."""

    model: ModelArguments = field(default_factory=ModelArguments)
    objective: ObjectiveArguments = field(default_factory=ObjectiveArguments)
    training: TrainingArguments = field(default_factory=TrainingArguments)
    data: dict[str, Any] = field(default_factory=dict)
    """Fields of `training.data.DataConfig`, save the patch size, which belongs to the phases."""
    validation: dict[str, Any] = field(default_factory=dict)
    """Fields of `training.data.ValidationConfig`."""
    phases: list[Phase] = field(default_factory=list)
    """In order; the last one reaches `max_steps`. Without any, the whole run has one patch and batch size."""
    model_overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of `UniRainConfig` that differ from the named size, for ablations."""
    recipe: str | None = None

    def __post_init__(self):
        training = self.training
        if "patch_size" in self.data:
            raise ValueError("`patch_size` belongs to the recipe's top level or its `phases`, not to `data`.")
        if not self.phases:
            self.phases = [Phase(training.max_steps, training.patch_size, training.batch_size)]
        ends = [phase.until_step for phase in self.phases]
        if ends != sorted(set(ends)) or min(ends) < 1:
            raise ValueError(f"`until_step` must rise from phase to phase, got {ends}.")
        if ends[-1] < training.max_steps:
            raise ValueError(f"The last phase ends at step {ends[-1]}, before --max_steps {training.max_steps}.")

    def phase_at(self, step: int) -> Phase:
        """The phase in which the optimizer step after `step` steps falls."""
        return next(phase for phase in self.phases if step < phase.until_step)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a recipe would hold them; for logs, cards and comparing runs."""
        flat = {**asdict(self.model), **asdict(self.objective), **asdict(self.training)}
        flat["output_dir"] = str(flat["output_dir"])
        nested = {"phases": [asdict(phase) for phase in self.phases], "model_overrides": self.model_overrides}
        return {**flat, **nested, "data": self.data, "validation": self.validation}


def parse_arguments(argv: list[str]) -> Arguments:
    """Flags over a recipe over defaults.

    Args:
        argv (`list[str]`): the command line without the program's name.

    Raises:
        ValueError: an unknown recipe, key or flag, or a value that cannot be; the message says which.
    """
    prog = "train_unirain.py"
    parser = OptionParser(
        [ModelArguments, ObjectiveArguments, TrainingArguments],
        prog=prog,
        usage=f"python {prog} --recipe NAME_OR_FILE [--option VALUE ...]",
        description="Trains UniRain. A recipe is these options in a YAML file; flags override it.",
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", help=f"A YAML file, or one of ours: {', '.join(recipe_names())}.")
    recipe_name, flags = split_recipe(argv, prog)
    options = {f.name for f in (*fields(ModelArguments), *fields(ObjectiveArguments), *fields(TrainingArguments))}
    recipe = read_recipe(find_recipe(recipe_name), options | set(NESTED_KEYS)) if recipe_name else {}

    nested = {key: recipe.pop(key) for key in NESTED_KEYS if recipe.get(key) is not None}
    *groups, _ = parser.parse_args_into_dataclasses(as_flags(recipe) + flags)
    _check_nested(recipe_name, nested)
    given = {argument.split("=")[0] for argument in flags}
    for flag in ("--batch_size", "--patch_size"):
        if nested.get("phases") and given & {flag, flag.replace("_size", "-size")}:  # the parser knows both
            raise ValueError(
                f"{flag} has no effect: recipe '{recipe_name}' has `phases`, which say it; change it there."
            )
    nested["phases"] = [_as_phase(recipe_name, phase) for phase in nested.get("phases", [])]
    return Arguments(*groups, **nested, recipe=recipe_name)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of one of our recipes, or the file of that name.

    Raises:
        ValueError: there is neither.
    """
    file = RECIPES / f"{name}.yaml" if name in recipe_names() else Path(name)
    if not file.is_file():
        raise ValueError(f"There is no recipe '{name}': give a YAML file or one of {', '.join(recipe_names())}.")
    return file


def _check_nested(recipe_name: str | None, nested: dict[str, Any]) -> None:
    for key, kind in NESTED_KEYS.items():
        if not isinstance(nested.get(key, kind()), kind):
            article = "a list" if kind is list else "a mapping"
            raise ValueError(f"`{key}` of recipe '{recipe_name}' must be {article}, got {nested[key]!r}.")


def _as_phase(recipe_name: str | None, phase: Any) -> Phase:
    expected = [f.name for f in fields(Phase)]
    if not isinstance(phase, dict) or sorted(phase) != sorted(expected):
        raise ValueError(f"A phase of recipe '{recipe_name}' must give {', '.join(expected)}; got {phase!r}.")
    if not all(isinstance(value, int) and value > 0 for value in phase.values()):
        raise ValueError(f"A phase of recipe '{recipe_name}' holds positive whole numbers; got {phase!r}.")
    return Phase(**phase)
