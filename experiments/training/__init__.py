"""The training step, the loop around it, and what a run writes.

A run that is stopped anywhere resumes bit for bit.
"""
