"""Comparison of finished runs, and studies that train, evaluate and compare a grid.

Differences are paired where they can be and come with intervals.
"""
