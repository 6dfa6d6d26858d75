"""Small movies as detectors write them."""

import struct
from pathlib import Path

import numpy as np


def random_electrons(shape, n, seed=0):
    """(n, 4) int: y, x of pixels, all different and in reading order, and y, x within the pixel, in quarters."""
    rng = np.random.default_rng(seed)
    pixels = np.sort(rng.choice(shape[0] * shape[1], n, replace=False))
    return np.column_stack([pixels // shape[1], pixels % shape[1], rng.integers(0, 4, (n, 2))])


def counts_of(electrons, shape, upsampling=1):
    """Electrons in each pixel, sampled that many times finer."""
    counts = np.zeros((shape[0] * upsampling, shape[1] * upsampling), dtype=int)
    for y, x, within_y, within_x in electrons:
        counts[y * upsampling + within_y * upsampling // 4, x * upsampling + within_x * upsampling // 4] += 1
    return counts


def write_eer(path, frames, shape, *, skip_bits=7):
    """Write raw frames, each a table of `random_electrons`, by the rules of the format.

    Skips and places within pixels are a stream of bits, lowest first. A skip of all ones goes on with the next one;
    the higher bit of a place is stored inverted.
    """
    compression = {8: 65000, 7: 65001}[skip_bits]
    packed = [_stream(frame, shape, skip_bits) for frame in frames]
    data, entries = bytearray(struct.pack("<2sHI", b"II", 42, 0)), 7
    link = 4
    for strip in packed:
        offset = len(data)
        data += strip + b"\0" * (len(strip) % 2)
        directory = len(data)
        data[link : link + 4] = struct.pack("<I", directory)
        data += struct.pack("<H", entries)
        for tag, kind, value in (
            (256, 4, shape[1]), (257, 4, shape[0]), (259, 4, compression), (273, 4, offset),
            (277, 4, 1), (278, 4, shape[0]), (279, 4, len(strip)),
        ):  # fmt: skip
            data += struct.pack("<HHII", tag, kind, 1, value)
        link = len(data)
        data += struct.pack("<I", 0)
    Path(path).write_bytes(data)


def _stream(electrons, shape, skip_bits):
    longest = (1 << skip_bits) - 1
    bits: list[int] = []

    def put(value, n_bits):
        bits.extend(value >> place & 1 for place in range(n_bits))

    def skip(n_pixels):
        while n_pixels >= longest:
            put(longest, skip_bits)
            n_pixels -= longest
        put(n_pixels, skip_bits)

    last = -1
    for y, x, within_y, within_x in np.asarray(electrons).tolist():
        pixel = y * shape[1] + x
        skip(pixel - last - 1)
        put(within_x ^ 2, 2)
        put(within_y ^ 2, 2)
        last = pixel
    skip(shape[0] * shape[1] - last - 1)
    put(0, -len(bits) % 8 + 16)
    return np.packbits(np.array(bits, dtype=np.uint8), bitorder="little").tobytes()
