"""The plots of latency: how many times as long torch takes is written on them."""

import matplotlib.pyplot as plt

from twinspire.export.benchmark.plots import latency_by_batch


def summary(p50: float) -> dict[str, float]:
    return {"p50_us": p50, "p95_us": 2 * p50}


def test_the_ratio_to_torch_is_labelled_at_each_batch_size() -> None:
    measured = {
        "1": {"served": summary(16.0), "torch": summary(137.6)},
        "32": {"served": summary(100.0), "torch": summary(150.0)},
    }
    figure = latency_by_batch({("query", 1): measured})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["8.6 ×", "1.5 ×"]
    assert axes.get_ylabel() == "µs a call: p50, band to p95"
    assert axes.get_xlabel() == "batch size"
    plt.close(figure)
