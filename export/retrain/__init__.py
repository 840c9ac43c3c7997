"""The champion trained on with newer data, and promoted behind gates."""
