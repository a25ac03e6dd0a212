"""The numbers of the figures, a file for each subject, and what draws them.

`particles`, `weights` and `accuracy` compute in float64 with the library alone, for
whole arrays of what a slider would move; `draw` shows the results.
"""
