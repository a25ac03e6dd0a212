"""Numbers behind figures and explanations, without drawing.

Total weights, trajectories of Gaussians, errors of samplers and their noise.
"""
