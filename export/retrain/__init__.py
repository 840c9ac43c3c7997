"""The champion trained on with newer data, and promoted behind gates.

    python -m twinspire.export retrain --config shop.toml

command.py     the command, and its summary
retrain.py     all steps in order, with what makes them resumable
"""
