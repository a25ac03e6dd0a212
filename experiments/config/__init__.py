"""What a config file may say, and the objects that it describes.

Types and bounds of entries, overrides on the command line, names and call strings, and
the network with its objective.
"""
