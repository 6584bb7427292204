"""Train UniRain: `python train_unirain.py --recipe smoke`, `python train_unirain.py --help`.

Several processes: `torchrun --standalone --nproc_per_node 2 train_unirain.py --recipe paper`, or `accelerate launch`.
On a CPU set `OMP_WAIT_POLICY=PASSIVE`: torch's threads otherwise take turns with the workers that load the data.
"""

import logging
import os
import sys
from functools import partial


try:
    from transformers.utils.logging import disable_progress_bar

    from modeling_unirain.hub import export_checkpoint, results_table
    from modeling_unirain.messages import one_line
    from modeling_unirain.pipeline_unirain import is_out_of_memory
    from modeling_unirain.training.arguments import Arguments, parse_arguments
    from modeling_unirain.training.data import DataConfig, RainDataset, ValidationConfig, ValidationSet
    from modeling_unirain.training.loop import Outcome, Trainer
    from modeling_unirain.training.pictures import SampleError
    from modeling_unirain.training.start import alone_in, build_accelerator, build_model, find_checkpoint
    from modeling_unirain.training.stopping import is_of_a_dead_worker
except ModuleNotFoundError as error:
    sys.exit(f"train_unirain.py: training needs the package {error.name}: pip install -e '.[train]'")
except KeyboardInterrupt:  # importing takes seconds
    print("train_unirain.py: Interrupted before it began.", file=sys.stderr)
    sys.exit(130)


logger = logging.getLogger("modeling_unirain.train")


def main(arguments: Arguments) -> Outcome:
    """Build, train, export into `<output_dir>/export`, unless a signal comes before any validation round."""
    seed = arguments.training.seed
    accelerator = build_accelerator(arguments.training)
    model = build_model(arguments.model, arguments.model_overrides, seed)
    where_to_begin = partial(find_checkpoint, arguments, accelerator.num_processes, model.config)
    checkpoint = where_to_begin()
    data = DataConfig.from_dict(arguments.data)
    validation = ValidationConfig.from_dict({"size_divisor": model.config.size_divisor, **arguments.validation})
    validation_set = ValidationSet(validation, data.types)  # first, being the one that is checked quickly
    training_set = RainDataset(data, seed)
    trainer = Trainer(arguments, accelerator, model, training_set, validation_set, checkpoint)

    with alone_in(arguments.training.output_dir, accelerator):
        if where_to_begin() != checkpoint:
            raise ValueError(
                f"Another training has just left {arguments.training.output_dir}: give the command again."
            )
        outcome = trainer.train()

        if outcome.model_folder is not None and accelerator.is_main_process:
            folder, results = arguments.training.output_dir / "export", outcome.results
            export_checkpoint(outcome.model_folder, folder, arguments.as_dict(), results)
            better = sum(r["psnr"] > r["input_psnr"] for r in results["per_type"].values())
            logger.info(
                f"Exported the weights of step {results['step']} to {folder}. Validation, PSNR above the input's for "
                f"{better} of {len(results['per_type'])} types:\n{results_table(results)}"
            )
    return outcome


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("accelerate", "transformers"):
        logging.getLogger(library).setLevel(logging.WARNING)
    disable_progress_bar()
    is_first_process = os.environ.get("RANK", "0") == "0"
    try:
        main(parse_arguments(sys.argv[1:]))
    except KeyboardInterrupt:  # before training, or a second Ctrl-C in it
        if is_first_process:
            logger.error("train_unirain.py: Interrupted; --resume_from last goes on from the last checkpoint.")
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if is_of_a_dead_worker(error):
            sys.exit(
                f"train_unirain.py: A process that loads data died ({one_line(error).rstrip('.')}), perhaps for want of memory: "
                "lower --num_workers, or cache_gib of the data; --resume_from last goes on."
            )
        if not is_out_of_memory(error):
            raise
        sys.exit(
            "train_unirain.py: The memory does not suffice: lower --batch_size or --patch_size (or those of the recipe's phases), or "
            "crop_size of the validation; --resume_from last goes on."
        )
    except (ValueError, OSError) as error:
        # Under a launcher every process comes here with the same sentence, save where one of them drew a bad sample.
        says_so = isinstance(error, SampleError) or is_first_process
        sys.exit(f"train_unirain.py: {error}" if says_so else 1)
