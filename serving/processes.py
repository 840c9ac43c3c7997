"""What the system says of the service's processes: memory, open files, processor time."""

from collections.abc import Iterator, Mapping

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def process_metrics(processes: Mapping[str, int]) -> Iterator[Metric]:
    """Figures of each process; one that has ended in the meantime has none.

    The proportional set size counts a page that n processes share as 1/n, so that the sum over all is what
    they take together; only Linux tells it.

    Args:
        processes: what the label `process` says -> process id.
    """
    label = ["process"]
    resident = GaugeMetricFamily(
        "twinspire_process_resident_bytes", "Memory, with all that is shared.", labels=label
    )
    proportional = GaugeMetricFamily(
        "twinspire_process_proportional_bytes", "Memory, with its part of what is shared.", labels=label
    )
    files = GaugeMetricFamily("twinspire_process_open_fds", "Open file descriptors.", labels=label)
    processor = CounterMetricFamily(
        "twinspire_process_cpu_seconds", "Processor time, user and system.", labels=label
    )
    for name, pid in processes.items():
        try:
            process = psutil.Process(pid)
            memory = process.memory_full_info()
            descriptors = process.num_fds()
            times = process.cpu_times()
        except psutil.Error:
            continue
        resident.add_metric([name], memory.rss)
        if hasattr(memory, "pss"):
            proportional.add_metric([name], memory.pss)
        files.add_metric([name], descriptors)
        processor.add_metric([name], times.user + times.system)
    yield from (resident, proportional, files, processor)
