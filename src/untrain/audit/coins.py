"""Which twin was trained on which sample: independent fair coins, drawn before anything is trained."""

import hashlib

import numpy as np

Coins = np.ndarray
"""Bool [K, N]: true where twin k was trained on sample x of the pool, and then told to forget it."""


def draw_coins(seed: int, twins: int, samples: int) -> Coins:
    """Draws an independent fair coin for every twin and sample.

    They are never balanced over the twins of a sample: the other twins' counts would then give the last coin away, and
    an attack on models without any trace would seem worse than chance.

    Args:
        seed: the audit's.
        twins: K.
        samples: N, of the pool.

    Returns:
        Bool [K, N]; each twin has from a quarter to three quarters of the samples, for else all coins are drawn anew.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    while True:
        coins = rng.integers(0, 2, (twins, samples)).astype(bool)
        if are_usable(coins):
            return coins


def are_usable(coins: Coins) -> bool:
    """Returns whether every twin has from a quarter to three quarters of the pool."""
    members, samples = coins.sum(axis=1), coins.shape[1]
    return bool(((4 * members >= samples) & (4 * members <= 3 * samples)).all())


def hash_coins(coins: Coins) -> str:
    """Hashes coins: SHA-256 of one byte a coin, twin after twin, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(coins, dtype=np.uint8).tobytes()).hexdigest()
