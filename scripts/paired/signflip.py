"""Sign-flip (paired permutation) test on cluster sums: exact wherever that is possible, never a p of zero.

T = sum of D_c over clusters; under the null each D_c keeps its size and has a random sign. Two-sided
p = P(|T*| >= |T|). Four routes, chosen in this order:

lattice         D_c on a known grid (binary and ordinal scores): the exact distribution, at any number of clusters
enumeration     at most 40 non-zero clusters: all 2^m sums, met in the middle
monte_carlo     at most 20 000: (b + 1) / (B + 1) of Phipson and Smyth (2010)
saddlepoint     more, or a Monte Carlo count below 20: Lugannani-Rice as in Robinson (1982)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from scipy import fft, optimize, special, stats

SMALLEST_P = sys.float_info.min
ENUMERATION_LIMIT = 40
MONTE_CARLO_LIMIT = 20_000
FEW_EXCEEDANCES = 20
GRID_LIMIT = 2**24
WILCOXON_EXACT_LIMIT = 2_000
NEGLIGIBLE = 1e-24


@dataclass(frozen=True)
class SignFlip:
    """Result of a sign-flip test.

    statistic: the sum T. p, p_mid: two-sided exact and mid-p. n_nonzero: clusters that are not zero.
    p_min_attainable: 2^(1 - n_nonzero). method: the route taken, or "degenerate" when every cluster is zero.
    """

    statistic: float
    p: float
    p_mid: float
    n_nonzero: int
    p_min_attainable: float
    method: str


def signflip(
    sums: np.ndarray,
    *,
    lattice: float | None = None,
    rng: np.random.Generator | None = None,
    draws: int = 19_999,
) -> SignFlip:
    """Two-sided sign-flip test of cluster sums.

    sums: float [G], the cluster sums D_c of paired differences.
    lattice: a factor known from the design that makes every D_c an integer; None for continuous data. It must never
        be guessed from the data.
    rng: needed for more than 40 non-zero clusters of continuous data. draws: B of the Monte Carlo route.

    Raises ValueError if `lattice` does not make the sums integers, or if Monte Carlo is needed and rng is None.

    >>> signflip(np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48.0])).p  # Darwin, Fisher 1935
    0.05267333984375
    """
    sums = np.asarray(sums, dtype=np.float64)
    total = float(sums.sum())
    magnitudes = np.abs(sums)
    magnitudes = magnitudes[magnitudes > 1e-12 * magnitudes.max(initial=0.0)]
    m = len(magnitudes)
    if m == 0:
        return SignFlip(total, 1.0, 1.0, 0, 1.0, "degenerate")
    floor = max(2.0 ** (1 - m), SMALLEST_P)
    exact = None
    if lattice is not None:
        exact = _lattice(magnitudes * lattice, total * lattice)
    if exact is not None:
        p, p_mid, method = *exact, "lattice"
    elif m <= ENUMERATION_LIMIT:
        p, p_mid, method = *enumeration(magnitudes, total), "enumeration"
    else:
        method, p, p_mid = "saddlepoint", 1.0, 1.0
        if m <= MONTE_CARLO_LIMIT:
            if rng is None:
                raise ValueError(f"{m} non-zero clusters of continuous data need a random generator")
            p, p_mid, exceedances = monte_carlo(magnitudes, total, draws, rng)
            method = "monte_carlo" if exceedances >= FEW_EXCEEDANCES else method
        if method == "saddlepoint":
            p = p_mid = saddlepoint(magnitudes, total)
    return SignFlip(total, min(max(p, floor), 1.0), min(max(p_mid, floor / 2), 1.0), m, floor, method)


def _lattice(codes: np.ndarray, total: float) -> tuple[float, float] | None:
    """p and mid-p of integer sums; None where the grid would be too long to hold."""
    integers = np.rint(codes)
    if np.abs(codes - integers).max() > 1e-6 * max(1.0, integers.max()):
        raise ValueError("cluster sums are not on the lattice that the design says they are on")
    values, counts = np.unique(integers.astype(np.int64), return_counts=True)
    if _grid_length(values, counts, 0.25 * float((values.astype(float) ** 2 * counts).sum())) > GRID_LIMIT:
        return None
    return lattice_p(values, counts, round(total))


def _grid_length(values: np.ndarray, counts: np.ndarray, variance: float) -> float:
    """Grid points that hold K = sum v Bin(n_v, q_v) up to a mass of e^-60 (Bernstein's inequality)."""
    support = float((values * counts).sum()) + 1
    return min(support, 2 * (16 * np.sqrt(variance) + 40 * float(values.max())) + 1)


def lattice_p(magnitudes: np.ndarray, counts: np.ndarray, total: int) -> tuple[float, float]:
    """Exact two-sided p and mid-p of T = sum of signed integers, to a relative 1e-9 however small.

    magnitudes: positive int [V], distinct. counts: int [V], how many clusters have each. total: the observed sum.

    With T = 2K - sum(v n_v), K = sum of v Bin(n_v, 1/2). The distribution is tilted exponentially so that its mean is
    the observed sum, and one inverse FFT of its characteristic function gives it. FFT errors are relative to the
    largest probability, which the tilt puts at the observed sum: that keeps tails of 1e-300 accurate where a plain
    FFT stops at 1e-15.
    """
    values = np.asarray(magnitudes, dtype=np.int64)
    counts = np.asarray(counts, dtype=np.int64)
    divisor = int(np.gcd.reduce(values))
    support = int((values * counts).sum())
    if abs(int(total)) > support or (int(total) + support) % (2 * divisor):
        raise ValueError(f"a sum of {total} cannot arise from these magnitudes")
    values, total, support = values // divisor, abs(int(total)) // divisor, support // divisor
    if total == support:
        p = 2.0 ** (1 - min(int(counts.sum()), 1074))
        return max(p, SMALLEST_P), max(p / 2, SMALLEST_P)
    tilt = _saddle(values.astype(float), counts, float(total))
    high = special.expit(2 * tilt * values)
    variance = float((values.astype(float) ** 2 * counts * high * (1 - high)).sum())
    length = fft.next_fast_len(int(np.ceil(_grid_length(values, counts, variance))), real=True)
    observed = (total + support) // 2
    start = 0 if length > support else round(float((values * counts * high).sum())) - length // 2
    probability = np.roll(_inverse_characteristic(values, counts, high, length), -(start % length))
    sums = start + np.arange(length)
    tail = (sums >= observed) & (sums <= support)
    # P(K = k) = P_tilted(k) exp(cumulant - tilt * t): only differences from the observed sum enter the exponent.
    weights = np.exp(-2 * tilt * (sums[tail] - observed))
    terms = np.maximum(probability[tail], 0.0) * weights
    log_scale = float((counts * _log_cosh(tilt * values)).sum()) - tilt * total
    scale = np.exp(max(log_scale, -800.0))
    at_least, equal = scale * float(terms[::-1].sum()), scale * float(terms[0])
    if total == 0:
        return 1.0, 1.0 - equal / 2
    return max(2 * at_least, SMALLEST_P), max(2 * at_least - equal, SMALLEST_P)


def _inverse_characteristic(values: np.ndarray, counts: np.ndarray, high: np.ndarray, length: int) -> np.ndarray:
    """P(K = k modulo length) from the characteristic function, dropping frequencies once they are negligible."""
    roots = np.exp(-2j * np.pi * np.arange(length) / length)
    spectrum = np.zeros(length // 2 + 1, dtype=complex)
    active = np.arange(length // 2 + 1)
    product = np.ones(len(active), dtype=complex)
    for j in np.argsort(-counts, kind="stable"):
        factor = 1 - high[j] + high[j] * roots[(values[j] * active) % length]
        product *= factor if counts[j] == 1 else factor ** int(counts[j])
        keep = product.real**2 + product.imag**2 > NEGLIGIBLE**2
        active, product = active[keep], product[keep]
    spectrum[active] = product
    return fft.irfft(spectrum, n=length)


def _log_cosh(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return x + np.log1p(np.exp(-2 * x)) - np.log(2.0)


def _saddle(magnitudes: np.ndarray, counts: np.ndarray | float, total: float) -> float:
    """The tilt at which the tilted mean of T is `total` (0 <= total < sum of counts * magnitudes)."""
    if total == 0:
        return 0.0

    def excess(tilt: float) -> float:
        return float((counts * magnitudes * np.tanh(tilt * magnitudes)).sum()) - total

    upper = total / float((counts * magnitudes**2).sum())
    for _ in range(200):
        if excess(upper) >= 0:
            break
        upper *= 2
    return float(optimize.brentq(excess, 0.0, upper, xtol=1e-300, rtol=1e-12))


def enumeration(magnitudes: np.ndarray, total: float) -> tuple[float, float]:
    """Exact p and mid-p over all 2^m signs: sorted sums of one half looked up for each sum of the other.

    magnitudes: positive float [m], m <= 40. Ties count with a tolerance of 1e-10 of the largest possible sum.
    """
    tolerance = 1e-10 * float(magnitudes.sum())
    if abs(total) <= tolerance:
        at_least = 2.0 ** len(magnitudes)
        above = _count_at_least(magnitudes, tolerance) * 2
    else:
        at_least = _count_at_least(magnitudes, abs(total) - tolerance) * 2
        above = _count_at_least(magnitudes, abs(total) + tolerance) * 2
    return at_least / 2.0 ** len(magnitudes), (at_least + above) / 2.0 ** (len(magnitudes) + 1)


def _count_at_least(magnitudes: np.ndarray, threshold: float) -> int:
    half = len(magnitudes) // 2
    left, right = _all_sums(magnitudes[:half]), np.sort(_all_sums(magnitudes[half:]))
    return int(len(right) * len(left) - np.searchsorted(right, threshold - np.sort(left)[::-1]).sum())


def _all_sums(magnitudes: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in magnitudes:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def monte_carlo(magnitudes: np.ndarray, total: float, draws: int, rng: np.random.Generator) -> tuple[float, float, int]:
    """(p, mid-p, b) from `draws` random flips: p = (b + 1) / (B + 1) (Phipson and Smyth 2010), so never zero.

    Ties count as exceeding, with a tolerance of 1e-6 |T|, and of rounding errors where T is zero.
    """
    magnitudes = np.asarray(magnitudes, dtype=np.float64)
    target, everything = abs(total), float(magnitudes.sum())
    tolerance = max(1e-6 * target, 1e-12 * everything)
    width = -(-len(magnitudes) // 8)
    chunk = max(1, 2**23 // len(magnitudes))
    at_least = above = 0
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        bits = rng.integers(0, 256, size=(size, width), dtype=np.uint8)
        flips = np.unpackbits(bits, axis=1, count=len(magnitudes)).astype(np.float64)
        sizes = np.abs(2 * (flips @ magnitudes) - everything)
        at_least += int((sizes >= target - tolerance).sum())
        above += int((sizes > target + tolerance).sum())
    return (at_least + 1) / (draws + 1), (at_least + above + 1) / (2 * (draws + 1)), at_least


def saddlepoint(magnitudes: np.ndarray, total: float) -> float:
    """Two-sided p by Lugannani-Rice on K(x) = sum of log cosh(x |D_c|); O(m) per step.

    Relative error below 1% for 25 or more clusters, except next to the smallest attainable p.
    """
    total, everything = abs(float(total)), float(magnitudes.sum())
    floor = max(2.0 ** (1 - min(len(magnitudes), 1074)), SMALLEST_P)
    if total >= everything * (1 - 1e-12):
        return floor
    scale = float(np.sqrt((magnitudes**2).sum()))
    if total < 1e-4 * scale:
        # The formula is 0/0 at the centre; the normal limit is accurate there.
        return float(min(1.0, 2 * stats.norm.sf(total / scale)))
    tilt = _saddle(magnitudes, 1.0, total)
    cumulant = float(_log_cosh(tilt * magnitudes).sum())
    curvature = float((magnitudes**2 / np.cosh(np.minimum(tilt * magnitudes, 350.0)) ** 2).sum())
    w = np.sqrt(max(2 * (tilt * total - cumulant), 0.0))
    u = tilt * np.sqrt(curvature)
    log_tail = stats.norm.logsf(w)
    correction = np.exp(stats.norm.logpdf(w) - log_tail) * (1 / u - 1 / w)
    log_p = np.log(2.0) + log_tail + np.log1p(max(correction, -1 + 1e-12))
    return float(min(1.0, max(np.exp(max(log_p, -700.0)), floor)))


@dataclass(frozen=True)
class Wilcoxon:
    """w_plus: sum of positive ranks. statistic_min: the smaller of both rank sums. p: exact or asymptotic."""

    w_plus: float
    statistic_min: float
    p: float
    p_asymptotic: float
    exact: bool


def wilcoxon(differences: np.ndarray, *, zero_method: str = "pratt") -> Wilcoxon | None:
    """Wilcoxon signed-rank test, exact given the ties for up to 2 000 non-zero differences; None if all are zero.

    differences: float [n]. zero_method: "pratt" ranks the zeros and then drops them, "wilcox" drops them first.
    It tests symmetry, not the mean, hence a sensitivity column only. scipy's method="auto" uses the table without
    ties on tied data, so the exact p comes from `lattice_p` on twice the midranks.
    """
    differences = np.asarray(differences, dtype=np.float64)
    differences = np.where(np.abs(differences) <= 1e-12 * np.abs(differences).max(initial=0.0), 0.0, differences)
    if not differences.any():
        return None
    if zero_method == "wilcox":
        differences = differences[differences != 0]
    # Averages over seeds differ in the last bits: equal magnitudes must share a rank.
    digits = np.abs(differences) / np.abs(differences).max()
    ranks = stats.rankdata(np.round(digits, 12))
    nonzero = differences != 0
    ranks, positive = ranks[nonzero], differences[nonzero] > 0
    w_plus, everything = float(ranks[positive].sum()), float(ranks.sum())
    z = (w_plus - everything / 2) / np.sqrt((ranks**2).sum() / 4)
    p_asymptotic = max(float(2 * stats.norm.sf(abs(z))), SMALLEST_P)
    exact = len(ranks) <= WILCOXON_EXACT_LIMIT
    p = p_asymptotic
    if exact:
        values, counts = np.unique(np.rint(2 * ranks).astype(np.int64), return_counts=True)
        p = lattice_p(values, counts, round(4 * w_plus - 2 * everything))[0]
    return Wilcoxon(w_plus, min(w_plus, everything - w_plus), min(p, 1.0), p_asymptotic, exact)
