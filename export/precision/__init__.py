"""In how many bits towers and vectors are served: variants made, measured beside float32, and chosen from.

    trial = make_trial(problem, {"query": (inputs, encoder), "item": ...}, config, console)
    query = choose_tower(exported, trial, config, export, folder, console)
    kept = choose_vectors(trial, query.vectors, item.vectors, filled, config)

Tables are stored in fewer bits (`tables`), dense layers computed in them (`dense`), together the `variants`
of a tower. They are measured (`measure`) on queries and items drawn once (`trial`), and the fastest within
the bound is served (`pick`). Torch's tower gets the same tables (`rounded`), so that parity stays a
question of computing.
"""

from export.precision.choose import Chosen, Exported, calibration, choose_tower
from export.precision.plots import quality_and_latency
from export.precision.rounded import VARIANTS, rounded
from export.precision.show import show_precision
from export.precision.stored import StoredVectors, choose_vectors
from export.precision.trial import Trial, make_trial
from export.precision.variants import make_variants

__all__ = [
    "VARIANTS",
    "Chosen",
    "Exported",
    "StoredVectors",
    "Trial",
    "calibration",
    "choose_tower",
    "choose_vectors",
    "make_trial",
    "make_variants",
    "quality_and_latency",
    "rounded",
    "show_precision",
]
