"""The picture of a benchmark: requests a second and p99 against connections, from the JSON that `run.py` wrote."""

import json
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt

NAMES = {"neuroserve": ("#0060bf", "o"), "naive": ("#c44e00", "s"), "bare uvicorn": ("#777777", "^")}


def curve(rows: list[dict], name: str, key: str) -> tuple[list[int], list[float]]:
    """Medians over the rounds, by connections."""
    mine = [row for row in rows if row["target"] == name]
    connections = sorted({row["connections"] for row in mine})
    middles = [statistics.median(row[key] for row in mine if row["connections"] == count) for count in connections]
    return connections, middles


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows = json.loads(source.read_text())
    figure, (rate, tail) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, (colour, mark) in NAMES.items():
        for axes, key in ((rate, "per_s"), (tail, "p99_ms")):
            axes.plot(*curve(rows, name, key), color=colour, marker=mark, label=name)
    for axes, title in ((rate, "requests per second (higher is better)"), (tail, "p99 latency, ms (lower is better)")):
        axes.set(xscale="log", yscale="log", xlabel="connections", title=title)
        axes.set_xticks(sorted({row["connections"] for row in rows if row["connections"]}), minor=False)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
    rate.legend(frameon=False)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    main()
