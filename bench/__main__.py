"""`python -m bench`: every limit on speed, measured. The exit code is 1 where one is missed."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from bench import (
    aggregation,
    checkpoint_read,
    command_line,
    correlation,
    curvature,
    curve_step,
    data_pipeline,
    distances,
    dormancy,
    evaluation,
    layer_analysis,
    line_walk,
    matching,
    per_sample,
    processes,
    recording,
    stacking,
    table,
    tracking,
)  # fmt: skip
from bench.pairs import Case, Result, measure
from modeconn_cli.engine.machine import memory as allocation

CASES = (
    Case("curve-step-128", 1.10, partial(curve_step.prepare, batch_size=128)),
    Case("curve-step-16", 1.25, partial(curve_step.prepare, batch_size=16)),
    Case("layer-analysis", 1.0, layer_analysis.prepare),
    Case("animate", 2.5, command_line.animate),
    Case("help", 2.0, command_line.show_help),
    Case("tab", 2.0, command_line.tab),
    Case("command-help", 3.5, command_line.command_help),
    Case("missing-file", 0.15, command_line.missing_file),
    Case("small-distance", 1.3, command_line.small_distance),
    Case("evaluate", 1.15, evaluation.prepare),
    Case("line", 1.15, partial(line_walk.prepare, norm="none")),
    Case("line-batch-norm", 1.15, partial(line_walk.prepare, norm="batch")),
    Case("score-param", 1.05, per_sample.against_training),
    Case("score-input", 1.05, per_sample.by_input),
    Case("score-document", 1 / 11, partial(per_sample.against_document, count=16)),
    Case("curvature-document", 1 / 2, partial(curvature.against_document, count=128)),
    Case("curvature-document-256", 1 / 2, partial(curvature.against_document, count=256)),
    Case("curvature-floor", 1.15, partial(curvature.against_floor, count=32)),
    Case("dormant", 1.25, partial(dormancy.prepare, count=64)),
    Case("tracking", 0.02, partial(tracking.prepare, count=128)),
    Case("recorder", 0.01, recording.prepare),
    Case("two-processes-csl", 1 / 1.7, processes.csl),
    Case("two-processes-dormant", 1 / 1.7, processes.dormant),
    Case("stacked-training", 1 / 6, stacking.prepare),
    Case("merge", 2.0, processes.merge),
    Case("aggregate", 1.0, aggregation.prepare),
    Case("correlate", 15.0, correlation.prepare),
    Case("l2-sharded", 2 * 4 * 4 * 16 * 2048**2 / 6e9, distances.sharded),
    Case("l2-vgg16", 1.2, distances.vgg),
    Case("l2-many", 1.0, distances.many),
    Case("fisher", 2.5, distances.fisher),
    Case("match-vgg16", 30.0, matching.weights_alone),
    Case("match-floor", 1.3, matching.against_floor),
    Case("permute-vgg16", 2.0, matching.applied),
    Case("groups-resnet50", 3.0, matching.resnet50),
    Case("groups-vit-b-16", 3.0, matching.vit),
    Case("checkpoint-read", 1.1, checkpoint_read.prepare),
    Case("data-pipeline", 0.25, data_pipeline.prepare),
)


def main() -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of {', '.join(names)}")
    parser.add_argument("--pairs", type=int, default=21, metavar="N", help="alternating pairs [default: 21]")
    parser.add_argument(
        "--seconds",
        type=float,
        default=180,
        metavar="S",
        help="a case takes no more pairs then [default: 180]",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="torch's threads [default: torch's choice]")
    options = parser.parse_args()
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if options.pairs < 1:
        parser.error("--pairs: at least 1")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    allocation.keep()  # as every command on the CPU does
    chosen = [case for case in CASES if not options.names or case.name in options.names]
    heading, results = about(), []
    for case in chosen:
        print(f"{case.name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(case, Path(folder), options.pairs, options.seconds))
    print(heading)
    print(table.text(results))
    for line in remarks(results, options.pairs, options.seconds):
        print(line)
    return 0 if all(result.within for result in results) else 1


def about() -> str:
    """What was measured with, and how busy the machine was with other things."""
    load = f", load before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads on "
        f"{os.cpu_count()} cores{load} (where others work too, --threads 1 is steadier)\n"
        "medians; the ratio is the median of the pairs' ratios"
    )


def remarks(results: list[Result], pairs: int, seconds: float) -> list[str]:
    """Which cases were too slow for all their pairs."""
    return [
        f"{result.name}: {len(result.ours)} of {pairs} pairs, stopped after {seconds:g} s (--seconds)"
        for result in results
        if len(result.ours) < pairs
    ]


if __name__ == "__main__":
    sys.exit(main())
