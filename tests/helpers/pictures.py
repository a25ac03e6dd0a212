"""Image files that Pillow does not write: 16 bits of colour, corrupted ones."""

import struct
import zlib

import numpy as np


def chunk(kind, content):
    """A chunk of a PNG file, with its checksum."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png16(values, more=b""):
    """A PNG of uint16 [height, width, 1 to 4]: grey, grey and alpha, RGB, RGBA.

    The rows are stored as they are, as differences to the left, and to the row above,
    in turn.
    """
    height, width, channels = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1).astype(np.int16)
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 2 * channels :] = rows[:, : -2 * channels]
    above[1:] = rows[:-1]
    stored = b""
    for number, row in enumerate(rows):
        kind = number % 3
        less = (0 * row, left[number], above[number])[kind]
        stored += bytes([kind]) + ((row - less) % 256).astype(np.uint8).tobytes()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + more
        + chunk(b"IDAT", zlib.compress(stored))
        + chunk(b"IEND", b"")
    )
