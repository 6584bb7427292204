"""Distil data sets of rainy pairs to those whose rain looks real (UniRain, section 3.2), and publish what is left.

Without any download, on a laptop:

    python distill_dataset.py --preset local --candidates DIR... --references DIR... --work_dir DIR --output_dir DIR

With the paper's models, on several GPUs or machines that share the two folders:

    torchrun --nproc_per_node 8 distill_dataset.py --preset paper --candidates DIR... --references DIR... \\
        --work_dir DIR --output_dir DIR --push_to_hub ORG/NAME

A run that was killed goes on where it stopped when the same command is started again.
"""

import errno
import logging
import sys


try:
    from modeling_unirain.distillation.arguments import DistillationArguments, parse_arguments
    from modeling_unirain.distillation.backends import build_backends
    from modeling_unirain.distillation.pipeline import Backends, Distillation, Summary
    from modeling_unirain.pipeline_unirain import is_out_of_memory
    from modeling_unirain.publishing import check_push, publish
except ModuleNotFoundError as error:
    sys.exit(f"distill_dataset.py: distillation needs the package {error.name}: pip install -e '.[distill]'")
except KeyboardInterrupt:  # importing takes seconds
    print("distill_dataset.py: Interrupted before it began.", file=sys.stderr)
    sys.exit(130)


logger = logging.getLogger("distill_dataset")


def main(arguments: DistillationArguments, backends: Backends) -> Summary | None:
    """Distil, and publish if asked to. `None` in every process but the main one."""
    if arguments.push_to_hub is not None:
        check_push(arguments.push_to_hub, arguments.private)
    summary = Distillation(arguments, backends).run()
    if summary is not None:
        logger.info("%s of %s pairs kept; see %s/report.html", summary.kept, summary.seen, arguments.output_dir)
        if arguments.push_to_hub is not None:
            publication = publish("dataset", arguments.output_dir, arguments.push_to_hub, arguments.private)
            logger.info("published at %s", publication.url)
    return summary


def run(argv: list[str]) -> int:
    """The command: one sentence and an exit code for whatever goes wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("distill_dataset", "modeling_unirain"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        arguments, backend_arguments = parse_arguments(argv)
        main(arguments, build_backends(backend_arguments))
    except KeyboardInterrupt:
        logger.error("stopped; the same command goes on from here")
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        logger.error("the memory does not suffice; lower --batch_size, and the same command goes on from here")
        return 1
    except (ValueError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        resume = ": the disk is full; free some space, and the same command goes on from here" if full else ""
        logger.error("%s%s", error, resume)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
