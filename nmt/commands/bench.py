"""``nmt-bench``: quality, speed, memory and size, side by side."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.benchmark.options import BenchOptions
from nmt.commands.app import run_app


def bench(options: BenchOptions, config: DictConfig) -> None:
    """Measure, and show the report."""
    from pathlib import Path

    from nmt.benchmark.report import PROFILE_FILE, REPORT_FILE
    from nmt.benchmark.run import run_benchmark

    run_benchmark(options)
    for name in (REPORT_FILE, PROFILE_FILE) if options.profile else (REPORT_FILE,):
        print((Path(options.out) / name).read_text(encoding="utf-8"))


def main() -> None:
    """Entry point of the console command."""
    run_app("bench", BenchOptions, bench)


if __name__ == "__main__":
    main()
