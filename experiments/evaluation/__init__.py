"""Evaluates a trained model: held-out loss, likelihood and sample quality.

Results are cached by the settings that they depend on, so that an interrupted
evaluation continues.
"""
