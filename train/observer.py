"""How a run tells people and MLflow where it is, and keeps what must not be lost."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import mlflow
from mlflow.entities import Metric
from rich.console import Console

from train.checkpoint import save_run, save_towers
from train.loop import Trainer
from train.progress import progress_bar

RUN_STATE = "run.pt"
BEST_TOWERS = "towers.pt"


class RunObserver:
    """Draws progress, logs to the active MLflow run, and writes checkpoints into a folder."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._progress = progress_bar(console)
        self._stop = False
        self._losses: list[Metric] = []  # sent to MLflow once an epoch

    @contextmanager
    def watching(self) -> Iterator["RunObserver"]:
        """Show progress, and let Ctrl-C and SIGTERM ask for a stop instead of breaking a step off."""
        previous = {
            number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with self._progress:
                yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        self.console.print("stopping after this step; once more to stop at once")

    def stop_requested(self) -> bool:
        """Whether a signal asked for a stop."""
        return self._stop

    def steps(self, epoch: int, total: int, done: int) -> Callable[[float], None]:
        """A bar for the epoch; the loss of every step goes to MLflow."""
        task = self._progress.add_task(f"epoch {epoch + 1}", total=total, completed=done, note="")
        step = epoch * total + done

        def report(loss: float) -> None:
            nonlocal step
            step += 1
            self._losses.append(Metric("step_loss", loss, time.time_ns() // 1_000_000, step))
            self._progress.update(task, advance=1, note=f"loss {loss:.3f}")

        return report

    def epoch(self, record: dict[str, float], number: int) -> None:
        """One line for the epoch, and its figures to MLflow; epoch 0 is the start."""
        mlflow.log_metrics(record, step=number)
        self._send_losses()
        loss = f"loss {record['loss']:.4f}  " if "loss" in record else ""
        speed = f"  {record['pairs_per_s']:,.0f} pairs/s" if "pairs_per_s" in record else ""
        name = f"epoch {number}" if number else "start  "
        self._progress.console.print(
            f"{name}  {loss}validation recall@10 {record['validation_recall_at_10']:.4f}  "
            f"nDCG@10 {record['validation_ndcg_at_10']:.4f}{speed}",
            highlight=False,
            soft_wrap=True,
        )

    def _send_losses(self) -> None:
        active = mlflow.active_run()
        if active is not None and self._losses:
            for at in range(0, len(self._losses), 1000):  # MLflow takes at most 1000 in one call
                chunk = self._losses[at : at + 1000]
                mlflow.MlflowClient().log_batch(active.info.run_id, metrics=chunk)
            self._losses = []

    def save(self, trainer: Trainer) -> None:
        """Keep all that the run needs to go on."""
        save_run(self.folder / RUN_STATE, trainer)

    def best(self, trainer: Trainer) -> None:
        """Keep the best towers so far."""
        save_towers(self.folder / BEST_TOWERS, trainer.towers)
