"""Quality of what a bundle holds, by exact search: means, and metrics of every query."""
