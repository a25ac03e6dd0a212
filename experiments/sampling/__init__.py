"""Samples from a checkpoint, written in resumable shards.

Sample i of a seed does not depend on batches, shards or devices.
"""
