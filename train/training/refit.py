"""The last step of a run with `[training] refit`: the towers that are kept have learned from validation, too.

Validation chooses the epoch, the weight of a linear model and the parameters of baselines. Then new towers
train on the pairs of training and validation together, for as many epochs as the best towers had, and the
linear model and the baselines are fitted to both parts with those choices. Where tastes change, the latest
events say most, and splits in the order of events keep just these for validation and test.

What the run says of validation is that of the first towers. No step reads test pairs.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from rich.console import Console

from twinspire.protos.errors import Unavailable
from twinspire.train.evaluation.lexical_choice import has_texts
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.training.callbacks import RunCallbacks
from twinspire.train.training.checkpoint import RUN_STATE, load_run, start_alike
from twinspire.train.training.process import TrainingProcess
from twinspire.train.training.run_metrics import select_compared
from twinspire.train.training.trained_model import Model, model_and_trainer
from twinspire.train.training.trainer import Trainer

Vectors = npt.NDArray[np.float32]
REFIT = "refit"  # folder of the state, in that of a run
BEFORE = "before_refit"  # artifacts: vectors by the first towers
_VECTORS = ("items.npy", "validation_queries.npy")


def refit(
    folder: Path, first: Model, trained: Trainer, console: Console, process: TrainingProcess
) -> tuple[Model, Trainer]:
    """Train new towers on training and validation pairs, for as many epochs as the best towers had.

    An interrupted run that is resumed goes on in the epoch in which it was interrupted. The other ranks
    train with it (`run.follow`).

    Args:
        folder: of the run.
        first: whose experiment has every key set; the new towers start as these did.
        trained: the trainer that has found the best epoch.
        process: this one, alone or as rank 0 of several.

    Returns:
        The model, and its trainer, whose data have the validation pairs among those of training.

    Raises:
        DataError: the state of an interrupted run is damaged.
        KeyboardInterrupt: SIGINT asked to stop, and the state has been saved; Terminated for SIGTERM.
    """
    experiment = first.experiment
    if has_texts(experiment, trained.data):
        # The exporter chooses the weight of BM25 on validation with these vectors.
        queries, _ = trained.data.parts["validation"].by_query()
        vectors = (trained.item_vectors(), trained.query_vectors(queries))
        with tempfile.TemporaryDirectory(dir=folder) as files:
            for name, each in zip(_VECTORS, vectors, strict=True):
                np.save(Path(files, name), each.cpu().numpy())
            mlflow.log_artifacts(files, BEFORE)
    epochs = trained.state.best_epoch
    text = f"training anew on training and validation pairs together, {epochs} epochs"
    console.print(text, highlight=False, soft_wrap=True)
    model, trainer, _ = model_and_trainer(experiment, trained.data.with_validation(), process, first.start)
    place = folder / REFIT
    place.mkdir(exist_ok=True)
    if (place / RUN_STATE).is_file():
        load_run(place / RUN_STATE, trainer)
        done = f"going on with epoch {trainer.state.epoch + 1} of these, step {trainer.state.step}"
        console.print(done, highlight=False)
    with _RefitCallbacks(place, console, epochs).watching() as callbacks:
        with callbacks.repeatable():
            start_alike(trainer)
        trainer.refit(callbacks, epochs)
    trainer.process = process.alone()
    mlflow.log_metrics(select_compared("train", {"refit_s": trainer.state.seconds}))
    trainer.clear_cached_vectors()
    architecture_of(experiment.tower).fit_unseen(trainer.towers, trainer.items, trainer.data.counts())
    trainer.clear_cached_vectors()
    trainer.item_vectors()  # which fits the radius of the inner product
    return model, trainer


def vectors_before_refit(run: Run) -> tuple[Vectors, Vectors]:
    """Vectors by the towers that had not learned from validation, of a run on texts.

    Returns:
        Of all items, (N, D), and of the validation queries, (Q, D) in the order of `by_query`; both float32.

    Raises:
        Unavailable: they cannot be downloaded.
    """
    try:
        uri = f"runs:/{run.info.run_id}/{BEFORE}"
        place = Path(mlflow.artifacts.download_artifacts(uri))
        items, queries = (np.load(place / name, allow_pickle=False) for name in _VECTORS)
    except (MlflowException, OSError, ValueError) as error:
        text = (
            f"run {run.info.run_id}: the vectors before the refit, with which the weight of the hybrid is "
            f"chosen, cannot be read: {error}; train again, or set hybrid.enabled = false"
        )
        raise Unavailable(text) from None
    return items, queries


class _RefitCallbacks(RunCallbacks):
    """Callbacks of a refit, whose epochs have a loss and no metrics of validation."""

    def __init__(self, folder: Path, console: Console, epochs: int) -> None:
        super().__init__(folder, console)
        self._epochs = epochs

    def on_epoch_start(
        self, epoch: int, steps: int, done: int, earlier_steps: int
    ) -> Callable[[float], None]:
        """Show a bar for the epoch."""
        return self.show_epoch(epoch, steps, done)

    def on_epoch_end(self, epoch: int, record: dict[str, float]) -> None:
        """Print one line for the epoch, and log its loss."""
        mlflow.log_metrics(select_compared("train", {"refit_loss": record["loss"]}), step=epoch)
        self.print_line(f"epoch {epoch} of {self._epochs}  loss {record['loss']:.4f}")
