"""A model's folder, which a killed job must not leave half made in its place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; a folder cannot be replaced in one step, so the old one waits beside it."""
    umask = os.umask(0)
    os.umask(umask)
    for file in new.iterdir():
        if not file.is_symlink():
            file.chmod(0o666 & ~umask)  # safetensors writes for the owner alone; a study is shared
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
