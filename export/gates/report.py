"""A decision as files: JSON for programs, a page with plots for people."""

import json
from pathlib import Path

from export.gates import page, plots
from export.gates.decision import Decision
from protos.bundle import write_file
from train.plots import save

JSON = "decision.json"
PAGE = "decision.md"


def write_report(decision: Decision, folder: Path) -> None:
    """Write `decision.json`, `decision.md` and the plots that there is something to draw for."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        name: figure
        for name, figure in (
            ("quality.png", plots.differences(decision)),
            ("latency.png", plots.latencies(decision)),
        )
        if figure is not None
    }
    for name, figure in figures.items():
        save(figure, folder / name)
    text = json.dumps(decision.document(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_file(folder / JSON, f"{text}\n".encode())
    write_file(folder / PAGE, page.page(decision, set(figures)).encode())
