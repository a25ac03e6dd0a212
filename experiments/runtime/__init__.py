"""Services of the machine and the operating system that every command needs.

Errors that a command answers with one line, signals, files, devices and processes,
random streams, progress.
"""
