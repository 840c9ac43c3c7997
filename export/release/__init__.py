"""Bundles in the MLflow model registry: registered, promoted behind gates, rolled back, and on record."""

REASON_LENGTH = 1000  # characters of a reason in the audit log
