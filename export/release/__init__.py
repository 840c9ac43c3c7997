"""Bundles in the MLflow model registry: registered, promoted behind gates, rolled back, and on record."""
