"""What any command needs of the machine and the operating system.

Errors that a command answers with one line, signals, files, devices and processes,
random streams, progress.
"""
