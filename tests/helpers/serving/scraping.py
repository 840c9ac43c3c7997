"""A scrape of `/metrics`, parsed by the official client."""

import urllib.request
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """All samples of one scrape, by name and labels."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            self.text = response.read().decode()
        self.families = list(text_string_to_metric_families(self.text))
        samples = [sample for family in self.families for sample in family.samples]
        self._samples = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
        assert len(self._samples) == len(samples), "a sample is there twice"

    def __getitem__(self, name: str) -> float:
        return self.get(name)

    def get(self, name: str, /, **labels: str) -> float:
        return self._samples[f"twinspire_{name}", frozenset(labels.items())]

    def has(self, name: str, /, **labels: str) -> bool:
        return (f"twinspire_{name}", frozenset(labels.items())) in self._samples

    def check_histograms(self) -> None:
        """Buckets ascend in bound and count, the last is infinite and holds all."""
        for family in self.families:
            if family.type == "histogram":
                series: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
                for sample in family.samples:
                    if sample.name == f"{family.name}_bucket":
                        labels = frozenset((k, v) for k, v in sample.labels.items() if k != "le")
                        series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
                assert series, family.name
                for labels, buckets in series.items():
                    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(buckets)), family.name
                    assert buckets[-1] == (float("inf"), self._samples[f"{family.name}_count", labels])
                    assert (f"{family.name}_sum", labels) in self._samples
