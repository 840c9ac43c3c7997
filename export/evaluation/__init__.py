"""Quality of a bundle as it is served, on the test split: means, and metrics of every query."""
