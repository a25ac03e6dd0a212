"""Figures, images and HTML pages.

Matplotlib figures, grids of samples, and self-contained pages with sliders.
"""
