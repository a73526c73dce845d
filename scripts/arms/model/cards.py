"""Whether this torch has kernels for a card."""

from __future__ import annotations

import re


def unsupported(name: str, capability: tuple[int, int], architectures: list[str]) -> str:
    """Why a card cannot be used, and the cure; "" if it can.

    capability: of the card. architectures: what torch was built for (torch.cuda.get_arch_list()): sm_86 runs on cards
    of its major version from 8.6 on, compute_86 is compiled by the driver for all cards from 8.6 on.

    >>> unsupported("old", (6, 1), ["sm_75", "compute_120"])
    'old has compute capability 6.1, and this torch was built for 7.5, PTX 12.0; take a newer card or an older torch'
    """
    built = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", text) for text in architectures]
    known = [(found[1] == "compute", (int(found[2]), int(found[3]))) for found in built if found]
    if any(capability >= own and (ptx or capability[0] == own[0]) for ptx, own in known):
        return ""
    has = ", ".join("PTX " * ptx + f"{major}.{minor}" for ptx, (major, minor) in known)
    newest = max((own for _, own in known), default=(0, 0))
    cure = "a newer card or an older torch" if capability < newest else "an older card or a newer torch"
    own = f"{capability[0]}.{capability[1]}"
    return f"{name} has compute capability {own}, and this torch was built for {has}; take {cure}"
