"""Progress, tracking and checkpoints of a run: what the trainer calls as it proceeds."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import mlflow
from mlflow.entities import Metric
from rich.console import Console

from twinspire.train.interrupts import acknowledge, interruption
from twinspire.train.metrics import HEADLINE, OF_LABELS, metric_label
from twinspire.train.progress import progress_bar
from twinspire.train.training.checkpoint import BEST_TOWERS, RUN_STATE, save_run, save_towers
from twinspire.train.training.run_metrics import select_compared
from twinspire.train.training.tracking import log_in_batches
from twinspire.train.training.trainer import Callbacks, Interrupted, Trainer


class RunCallbacks(Callbacks):
    """Shows progress, logs to the active MLflow run, and writes checkpoints."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._progress = progress_bar(console)
        self._stop = 0  # the signal that asked for a stop
        self._stops_at_once = False
        self._losses: list[Metric] = []  # sent to MLflow once an epoch

    @contextmanager
    def watching(self) -> Iterator["RunCallbacks"]:
        """Show progress; the first Ctrl-C or SIGTERM asks for a stop, the second one breaks the step off.

        Raises:
            KeyboardInterrupt: SIGINT asked for a stop, and the state has been saved.
            Terminated: the same by SIGTERM.
        """
        previous = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with self._progress, suppress(Interrupted):
                yield self
            if self._stop:  # maybe after the last step
                raise interruption(self._stop)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise interruption(number)
        self._stop = number
        if self._stops_at_once:
            raise Interrupted
        acknowledge()
        self.console.print("stopping after this step; once more to stop at once")

    def should_stop(self) -> bool:
        """Whether a signal asked for a stop."""
        return self._stop > 0

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """A signal in this block ends it at once.

        Raises:
            Interrupted: a signal asked for a stop, in the block or before it.
        """
        self._stops_at_once = True
        try:
            if self._stop:
                raise Interrupted
            yield
        finally:
            self._stops_at_once = False

    def on_epoch_start(
        self, epoch: int, steps: int, done: int, earlier_steps: int
    ) -> Callable[[float], None]:
        """Show a bar for the epoch; the loss of every step goes to MLflow."""
        show = self.show_epoch(epoch, steps, done)
        step = earlier_steps + done

        def report_loss(loss: float) -> None:
            nonlocal step
            step += 1
            self._losses.append(Metric("train/step_loss", loss, time.time_ns() // 1_000_000, step))
            show(loss)

        return report_loss

    def show_epoch(self, epoch: int, steps: int, done: int) -> Callable[[float], None]:
        """Show a bar for an epoch; arguments and result as of `on_epoch_start`."""
        task = self._progress.add_task(f"epoch {epoch + 1}", total=steps, completed=done, note="")
        return lambda loss: self._progress.update(task, advance=1, note=f"loss {loss:.3f}")

    def on_epoch_end(self, epoch: int, record: dict[str, float]) -> None:
        """Print one line for the epoch, and log its metrics; epoch 0 is the start."""
        prefix = "validation_"
        validation = {name.removeprefix(prefix): each for name, each in record.items() if prefix in name}
        others = {name: each for name, each in record.items() if prefix not in name}
        shown = select_compared("validation", validation) | select_compared("train", others)
        mlflow.log_metrics(shown, step=epoch)
        active = mlflow.active_run()
        if active is not None and self._losses:
            log_in_batches(active.info.run_id, self._losses)
            self._losses = []
        loss = f"loss {record['loss']:.4f}  " if "loss" in record else ""
        labels = [name for name in OF_LABELS if name in validation]
        names = [*labels, *HEADLINE] if "log_loss" in labels else [*HEADLINE, *labels]
        figures = "  ".join(f"{metric_label(each)} {validation[each]:.4f}" for each in names)
        speed = f"  {record['pairs_per_s']:,.0f} pairs/s" if "pairs_per_s" in record else ""
        name = f"epoch {epoch}" if epoch else "start  "
        self.print_line(f"{name}  {loss}validation {figures}{speed}")

    def print_line(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Save what the run needs to continue."""
        if self._stop:
            acknowledge()  # writing a large model may take its time
        save_run(self.folder / RUN_STATE, trainer)

    def on_best(self, trainer: Trainer) -> None:
        """Save the best towers so far."""
        save_towers(self.folder / BEST_TOWERS, trainer.towers)
