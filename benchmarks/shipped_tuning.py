"""Makes the database that is shipped for a target: of one that was tuned, what gained clearly.

    python benchmarks/shipped_tuning.py zen5.jsonl tvm_shiftadd/tune/databases/znver5.jsonl

Kept are winners of finals that gained clearly over the rule's choice: kernels are measured by
themselves, and what gains little so may lose it beside others.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

from tvm_shiftadd.tune.database import Database, Record, identity_of, write

#: How much faster than the rule's choice a kernel must be: medians of the final.
GAIN = 1.05


@dataclass(frozen=True)
class Config:
    source: Path
    target: Path


def gain(record: Record) -> float:
    """How many times as fast as the rule's choice a winner was."""
    return statistics.median(record.baseline) / statistics.median(record.values)


def worth_shipping(database: Database) -> list[Record]:
    """The last winner of each workload, where it gained enough."""
    winners = {record.key: record for record in database.records if record.final}
    return [record for record in winners.values() if gain(record) >= GAIN]


def main(config: Config) -> None:
    identity = identity_of(config.source)
    records = worth_shipping(Database.read(config.source, identity))
    write(config.target, identity, records)
    print(f"{len(records)} kernels, {config.target.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parsed = parser.parse_args()
    main(Config(parsed.source, parsed.target))
