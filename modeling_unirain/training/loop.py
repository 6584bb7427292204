"""The training loop, on Accelerate: CPU, one GPU or several processes.

Unusual here:

- A run is a function of its arguments and the step. Every sample follows from (seed, epoch, index), the routers' noise
  from (seed, step, process), so a run that was killed and resumed gives the same losses bit for bit. The loader is
  therefore our own: samples are numbered through all epochs and each process takes its part of every batch, with
  workers that live as long as the phase.
- Processes agree once a step on whether to stop, save or give up: a signal or a clock strikes one of them only.
- What is validated, kept as best and exported is the moving average of the weights.
"""

import json
import logging
import math
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from modeling_unirain.files import write_json
from modeling_unirain.hub import results_table, save_model
from modeling_unirain.messages import one_line
from modeling_unirain.modeling_unirain import UniRainForImageDeraining, load_balancing_loss

from .arguments import Arguments
from .averaging import AveragedWeights
from .batches import BatchNumbers, NumberedSamples
from .checkpoints import AVERAGE_FOLDER, Checkpoints
from .data import DataError, RainDataset
from .losses import sample_losses
from .objective import MultiObjectiveReweighting, ObjectiveOutput
from .optimizer import build_optimizer
from .pictures import SampleError
from .routers import spread_routers
from .run_log import RunLog
from .stopping import catch_signals, leave_signals_to_the_main_process
from .validation import ValidationInterrupted, ValidationResult, validate


logger = logging.getLogger(__name__)

ARGUMENTS_FILE = "arguments.json"
ROUTED_SAMPLES = 128
"""Training samples over which the routers are spread at the start."""

HYPERPARAMETERS = ("initial_lr", "weight_decay", "betas")


class NonFiniteError(ValueError):
    """A loss or gradient is NaN or infinite."""


@dataclass
class Progress:
    """Where a run is; saved in every checkpoint."""

    step: int = 0
    """Optimizer steps done."""
    samples: int = 0
    """Training samples used, by all processes together; the next one follows from it."""
    validated_step: int = -1
    """Step of the last validation round."""
    best: dict[str, Any] | None = None
    """The best validation round so far, see `ValidationResult.as_dict`."""
    seconds: float = 0.0
    """Time spent training, over all parts of the run."""
    num_processes: int = 1
    window: list[dict[str, float]] = field(default_factory=list)
    """Every step since the last line of the log."""

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


@dataclass
class Outcome:
    """How a run ended."""

    status: str
    """`finished`, `out of time` or `interrupted`."""
    step: int
    seconds: float
    checkpoint: Path
    """The last checkpoint."""
    results: dict[str, Any] | None
    """Figures of the best checkpoint; `None` when the run was interrupted before any."""
    model_folder: Path | None
    """Averaged weights of the best checkpoint."""


class Trainer:
    """Trains a network; `train` is the whole of it.

    Args:
        arguments ([`Arguments`]): the run.
        accelerator (`Accelerator`): from `start.build_accelerator`.
        model ([`UniRainForImageDeraining`]): from `start.build_model`.
        training_set ([`RainDataset`]): its patch size is set phase by phase.
        validation_set (sequence of samples): see `validate`.
        checkpoint (`Path`, *optional*): from `start.find_checkpoint`.
    """

    def __init__(
        self,
        arguments: Arguments,
        accelerator: Accelerator,
        model: UniRainForImageDeraining,
        training_set: RainDataset,
        validation_set: Sequence[dict[str, Any]],
        checkpoint: Path | None = None,
    ):
        self.arguments = arguments
        self.options = options = arguments.training
        self.accelerator = accelerator
        self.training_set, self.validation_set = training_set, validation_set
        self.checkpoint = checkpoint
        self.started = self.last_save = time.monotonic()

        if options.router_deviation > 0 and checkpoint is None:
            spread_routers(model, self._first_images(), options.router_deviation, options.seed)
        if options.channels_last:
            model.to(memory_format=torch.channels_last)
        self.average = AveragedWeights(model, options.ema_decay)
        self.average.module.to(accelerator.device)
        optimizer = build_optimizer(model, options)
        self.scheduler = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, options.warmup_steps, options.max_steps, min_lr=options.min_learning_rate
        )
        self.model, self.optimizer = accelerator.prepare(model.train(), optimizer)
        self.objective = MultiObjectiveReweighting(
            training_set.types,
            **arguments.objective.as_options(),
            per_sample=training_set.config.type_shares is not None,
        )
        self.progress = Progress(num_processes=accelerator.num_processes)
        # The scheduler is not `prepare`d: Accelerate would advance it once a process, and a step is a step here.
        accelerator.register_for_checkpointing(self.progress, self.objective, self.scheduler)
        self.checkpoints = Checkpoints(options.output_dir, options.save_total_limit)
        self.log = RunLog(accelerator, options.output_dir)
        self.signals: list[int] = []
        self.saved_step = -1

    def train(self) -> Outcome:
        """Train until `max_steps`, `max_minutes` or a signal; every way out but an error leaves a complete checkpoint.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the last checkpoint is left as it was.
            ValueError: what was asked for cannot be; raised before any step.
        """
        self._start()
        status = "finished"
        with (
            logging_redirect_tqdm(),
            catch_signals(self.signals, self.accelerator.num_processes),
            self._bar() as bar,
            closing(self._batches()) as stream,
        ):
            try:
                self._validate_if_due()
                self._save()  # of another folder's checkpoint too: this one then holds all that its run needs
                for batches, waited in stream:
                    orders = self._step(batches, waited, bar)
                    if orders.stop or orders.time_up:
                        status = "interrupted" if orders.stop else "out of time"
                        break
                    improved = self._validate_if_due()
                    if improved or orders.save or self.progress.step % self.options.save_steps == 0:
                        self._save()
            except ValidationInterrupted:  # the round is run again on resume
                status = "interrupted"
            self._save()
        logger.info(f"{status.capitalize()} at step {self.progress.step} of {self.options.max_steps}.")
        outcome = self._outcome(status)
        self._release()
        self.log.finish()
        return outcome

    # Preparation

    def _start(self) -> None:
        if self.checkpoint is not None:
            self._restore(self.checkpoint)
            if self.progress.step > self.options.max_steps:
                raise ValueError(
                    f"{self.checkpoint} is at step {self.progress.step}, beyond --max_steps {self.options.max_steps}: "
                    f"give {self.progress.step} to export it, more to go on, or resume from an earlier checkpoint."
                )
            self._compare_with_before()
            self._forget_a_best_that_is_gone()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.options.output_dir.mkdir(parents=True, exist_ok=True)
            self.checkpoints.remove_leftovers()
            named = self.checkpoints.best() or {"step": -1}
            if self.progress.best is not None and self.progress.best["step"] > named["step"]:
                self._mark_best()  # killed between the checkpoint and its mention
            write_json(self.options.output_dir / ARGUMENTS_FILE, self.arguments.as_dict())
        self.log.start(self.arguments.as_dict(), self.progress.step, self.progress.validated_step)

    def _restore(self, checkpoint: Path) -> None:
        asked = [{key: group[key] for key in HYPERPARAMETERS} for group in self.optimizer.param_groups]
        try:
            self.accelerator.load_state(str(checkpoint))
            self.average.module.load_state_dict(load_file(checkpoint / AVERAGE_FOLDER / "model.safetensors"))
        except Exception as error:  # of torch, pickle, safetensors or the file system
            raise ValueError(
                f"The checkpoint {checkpoint} cannot be resumed by this run: {one_line(error)}"
            ) from error
        self.average.updates = self.progress.step
        # What this run asks for counts, not what the run that wrote the checkpoint did.
        self.scheduler.base_lrs = [group["initial_lr"] for group in asked]
        for group, values, factor in zip(self.optimizer.param_groups, asked, self.scheduler.lr_lambdas, strict=True):
            group.update(values, lr=values["initial_lr"] * factor(self.scheduler.last_epoch))
        if self.progress.num_processes != self.accelerator.num_processes:
            logger.warning(
                f"The checkpoint is of {self.progress.num_processes} processes, this run has "
                f"{self.accelerator.num_processes}: it goes on, but not bit for bit."
            )
            self.progress.num_processes = self.accelerator.num_processes
        if checkpoint.resolve() == self.checkpoints.path(self.progress.step).resolve():
            self.saved_step = self.progress.step
        logger.info(f"Resuming from {checkpoint} at step {self.progress.step}.")

    def _compare_with_before(self) -> None:
        """Tells what has changed. Where the run's weights came from stays known, though it need not be said again."""
        file = self.checkpoint.parent / ARGUMENTS_FILE
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if self.arguments.model.init_from is None:
            self.arguments.model.init_from = before.get("init_from")
        for name, value in json.loads(json.dumps(self.arguments.as_dict(), default=str)).items():
            if name in before and before[name] != value and name not in ("resume_from", "max_minutes"):
                logger.warning(f"`{name}` is now {value}; it was {before[name]}.")

    def _forget_a_best_that_is_gone(self) -> None:
        """A checkpoint gone on from in another folder, or gone back to, may tell of a best one that is not there to be exported."""
        best = self.progress.best
        if best is None or best["step"] == self.progress.step:  # that one is gone on from, and saved here first
            return
        (is_here,) = broadcast_object_list([self.checkpoints.path(best["step"]).is_dir()])
        if not is_here:
            logger.warning(f"The best round so far, of step {best['step']}, no longer counts: its checkpoint is gone.")
            # Its pictures are still what the next round's are compared with.
            self.progress.best = {**best, "psnr": -math.inf}

    # Data

    def _first_images(self) -> Tensor:
        """Enough training samples to know how features vary; every process takes the same."""
        self.training_set.config = replace(self.training_set.config, patch_size=self.arguments.phase_at(0).patch_size)
        samples = NumberedSamples(self.training_set)
        return torch.stack([samples[number]["pixel_values"] for number in range(ROUTED_SAMPLES)])

    def _batches(self) -> Iterator[tuple[list[dict[str, Any]], float]]:
        """The batches of each optimizer step, and the seconds spent waiting for them."""
        while self.progress.step < self.options.max_steps:
            phase = self.arguments.phase_at(self.progress.step)
            end = min(phase.until_step, self.options.max_steps)
            self.training_set.config = replace(self.training_set.config, patch_size=phase.patch_size)
            stream = iter(self._loader(phase.batch_size))
            try:
                while self.progress.step < end:
                    begun = time.perf_counter()
                    batches = [self._next(stream) for _ in range(self.options.gradient_accumulation_steps)]
                    batches = send_to_device(batches, self.accelerator.device, non_blocking=True)
                    # Counted before the step, at whose end a checkpoint may be written.
                    self.progress.samples += phase.batch_size * len(batches)
                    yield batches, time.perf_counter() - begun
            finally:
                del stream  # its workers end now, not when whoever holds an error's traceback lets go of it

    @staticmethod
    def _next(stream: Iterator[dict[str, Any]]) -> dict[str, Any]:
        try:
            return next(stream)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__.tb_next)  # they hold the stream, and with it its workers
            del stream
            if isinstance(error, DataError):  # of a worker, whose own traceback is in the message
                raise SampleError(str(error).strip().rsplit("DataError: ", 1)[-1]) from None
            raise

    def _loader(self, batch_size: int) -> DataLoader:
        accelerator, workers = self.accelerator, self.options.num_workers
        return DataLoader(
            NumberedSamples(self.training_set),
            batch_sampler=BatchNumbers(
                self.progress.samples, batch_size, accelerator.process_index, accelerator.num_processes
            ),
            num_workers=workers,
            worker_init_fn=leave_signals_to_the_main_process,
            pin_memory=accelerator.device.type == "cuda",
        )

    # One step

    def _step(self, batches: list[dict[str, Any]], waited: float, bar: tqdm) -> "Orders":
        begun = time.perf_counter()
        progress, options, accelerator = self.progress, self.options, self.accelerator
        # The routers' noise follows from the step alone: no generator's state has to survive a resume.
        torch.manual_seed(_seed_of(options.seed, progress.step, accelerator.process_index))
        measured = []
        for index, batch in enumerate(batches):
            with nullcontext() if index == len(batches) - 1 else accelerator.no_sync(self.model):
                loss, figures = self._loss(batch)
                accelerator.backward(loss / len(batches))
            measured.append(figures)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), options.max_grad_norm or float("inf"))
        losses = torch.stack([figures.loss.detach() for figures in measured]).mean()
        type_losses = torch.stack([figures.type_losses for figures in measured]).nanmean(0)
        # The only time a step that the device is waited for.
        loss, norm, *type_losses = torch.cat([torch.stack([losses, norm]), type_losses]).tolist()
        finite = np.isfinite(norm) and np.isfinite(loss)

        orders = self._agree(
            Orders(
                stop=bool(self.signals),
                time_up=_minutes_since(self.started) >= (options.max_minutes or float("inf")),
                save=_minutes_since(self.last_save) >= (options.save_minutes or float("inf")),
                fail=not finite,
            )
        )
        if orders.fail:
            self._fail(batches)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.average.update()
        progress.step += 1

        seconds = time.perf_counter() - begun + waited
        progress.seconds += seconds
        row = {"loss": loss, "grad_norm": norm, "seconds": seconds, "waited": waited, "learning_rate": learning_rate}
        row |= {f"loss/{name}": value for name, value in zip(self.objective.types, type_losses, strict=True)}
        progress.window.append(row)
        self._show(bar, row)
        if progress.step % options.logging_steps == 0 or progress.step == options.max_steps:
            self.log.training(progress.step, summary(progress.window))
            progress.window.clear()
        return orders

    def _loss(self, batch: dict[str, Any]) -> tuple[Tensor, ObjectiveOutput]:
        """The loss to descend: the objective over every sample's own, and the routers' balance."""
        rainy, clean = batch["pixel_values"], batch["labels"]
        if self.options.channels_last:
            rainy = rainy.contiguous(memory_format=torch.channels_last)
        coefficient = self.options.router_balance_coef
        output = self.model(rainy, output_routes=coefficient > 0)
        per_sample = sample_losses(output.reconstruction, clean, self.options.loss)
        weighed = self.objective(per_sample, batch["rain_type"])
        batch["finite"] = per_sample.detach().isfinite()
        if coefficient > 0:
            balance = load_balancing_loss(output, mean=lambda share: self.accelerator.reduce(share, "mean"))
            return weighed.loss + coefficient * balance, weighed
        return weighed.loss, weighed

    def _agree(self, orders: "Orders") -> "Orders":
        """What any process wants, all of them do."""
        if self.accelerator.num_processes == 1:
            return orders
        votes = torch.tensor([float(vote) for vote in vars(orders).values()], device=self.accelerator.device)
        return Orders(*(vote > 0 for vote in self.accelerator.reduce(votes, "sum").tolist()))

    def _fail(self, batches: list[dict[str, Any]]) -> None:
        """Name the samples whose loss is not finite; all of the batch where only the gradient is not."""
        named = [pair for batch in batches for pair in zip(batch["name"], batch["finite"].tolist(), strict=True)]
        if self.accelerator.num_processes > 1:
            named = gather_object(named)
        guilty = [name for name, finite in named if not finite] or [name for name, _ in named]
        kept = self.checkpoints.list()
        advice = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was written yet"
        raise NonFiniteError(
            f"The loss or its gradient is not finite in step {self.progress.step + 1}; {advice}. Samples: "
            f"{', '.join(guilty)}."
        )

    # What a run shows and leaves

    def _bar(self) -> tqdm:
        interactive = sys.stderr.isatty()
        return tqdm(
            total=self.options.max_steps,
            initial=self.progress.step,
            desc="training",
            unit="step",
            dynamic_ncols=interactive,
            mininterval=0.5 if interactive else 30,
            disable=not self.accelerator.is_main_process,
        )

    def _show(self, bar: tqdm, row: dict[str, float]) -> None:
        bar.set_postfix_str(
            f"loss {row['loss']:.4f}, lr {row['learning_rate']:.1e}, waiting {row['waited'] / row['seconds']:.0%}",
            refresh=False,
        )
        bar.update()

    def _validate_if_due(self) -> bool:
        """Run a validation round where one is due; whether it was the best so far."""
        step, options = self.progress.step, self.options
        scheduled = step % options.validation_steps == 0 or step == options.max_steps
        if not scheduled or self.progress.validated_step == step:
            return False
        result = self._validate()
        best = self.progress.best
        if best is not None and not result.is_of_the_pictures_of(best):
            logger.warning(
                f"The best round so far, of step {best['step']}, no longer counts and the objective begins anew: "
                "the validation pictures were others."
            )
            best = None
            self.objective.restart()
        report = self.objective.update(result.losses())
        self.progress.validated_step = step
        self.log.validation(step, {**result.as_dict(), "objective": vars(report)}, result.scalars() | report.scalars())
        self.log.pictures(step, result.sheet)
        logger.info(f"Step {step}: validation PSNR {result.psnr:.2f} dB\n{results_table(result.as_dict())}")
        improved = best is None or result.psnr > best["psnr"]
        if improved:
            self.progress.best = result.as_dict()
        return improved

    def _validate(self) -> ValidationResult:
        try:
            return validate(
                self.accelerator,
                self.average.module,
                self.validation_set,
                self.objective.types,
                self.progress.step,
                interrupted=lambda: bool(self.signals),
            )
        except DataError as error:
            raise SampleError(str(error)) from None

    def _save(self) -> None:
        """Write a checkpoint of this step, unless there is one: all of it, or nothing. Then name the best.

        Raises:
            OSError: it could not be written; the earlier ones are as they were.
        """
        step, main = self.progress.step, self.accelerator.is_main_process
        if step == self.saved_step:
            if main:
                self._mark_best()  # found in a round that this checkpoint was saved before, run on resume
            return
        folder = self.checkpoints.temporary(step)
        try:
            if main:
                self.checkpoints.prepare(step)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(folder))
            if main:
                save_model(self.average.module, folder / AVERAGE_FOLDER)
        except Exception as error:  # torch and safetensors have their own for a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"The checkpoint of step {step} could not be written to {folder.parent}: {one_line(error)}"
            ) from error
        self.accelerator.wait_for_everyone()
        if main:
            self.checkpoints.commit(step)
            self._mark_best()
            self.checkpoints.rotate()
        self.saved_step = step
        self.last_save = time.monotonic()

    def _mark_best(self) -> None:
        best = self.progress.best
        if best is not None and self.checkpoints.path(best["step"]).is_dir():
            self.checkpoints.mark_best(best["step"], best)

    def _release(self) -> None:
        """Let go of the network before the processes' group ends.

        DistributedDataParallel, as the last to hold the group, would wait for gloo's threads without letting go of the
        interpreter's lock, which these may be waiting for: a run of several processes on CPUs that never exits (torch 2.13).
        """
        del self.model, self.optimizer
        self.accelerator.free_memory()

    def _outcome(self, status: str) -> Outcome:
        progress, last = self.progress, self.checkpoints.path(self.progress.step)
        self.accelerator.wait_for_everyone()
        best = self.checkpoints.best()
        if best is not None:
            results, folder = best, self.checkpoints.output_dir / best["checkpoint"] / AVERAGE_FOLDER
        elif status == "interrupted" or self.signals:
            results, folder = None, None
        else:
            results, folder = self._validate().as_dict(), last / AVERAGE_FOLDER
        return Outcome(status, progress.step, progress.seconds, last, results, folder)


@dataclass
class Orders:
    """What one process wants all of them to do after this step."""

    stop: bool
    time_up: bool
    save: bool
    fail: bool


def summary(window: list[dict[str, float]]) -> dict[str, float]:
    """Means over the steps since the last line of the log; a type that was in no batch is left out."""
    seconds = sum(row["seconds"] for row in window)
    means = {}
    for name in window[0]:
        values = [row[name] for row in window if np.isfinite(row[name])]
        if values and name not in ("seconds", "waited", "learning_rate"):
            means[name] = sum(values) / len(values)
    return {
        **means,
        "learning_rate": window[-1]["learning_rate"],
        "steps_per_second": len(window) / seconds,
        "waiting_share": sum(row["waited"] for row in window) / seconds,
    }


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60
