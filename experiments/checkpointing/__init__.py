"""Checkpoints that are complete or absent.

Saving and restoring with Orbax, checksums, retention, the settings a checkpoint was
made with, and averages of the weights reconstructed after training.
"""
