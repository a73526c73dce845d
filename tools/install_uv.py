"""Install uv into a folder of its own, on a machine where Python is all there is: python install_uv.py VERSION FOLDER.

Uses a venv with pip where Python can make one. Debian splits that part of Python into a package of its own
(python3-venv); where it is missing, uv's wheel is fetched from the package index and unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

INDEX = "https://pypi.org/simple"


def from_wheel(version: str, folder: Path) -> None:
    """Fetch uv's wheel for Linux on x86-64, check its sha256, and unpack the one program in it."""
    page = urllib.request.Request(  # noqa: S310 (a constant https address)
        f"{INDEX}/uv/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(page) as reply:  # noqa: S310 (a constant https address)
        files = json.load(reply)["files"]
    names = re.compile(rf"uv-{re.escape(version)}-.*manylinux.*x86_64.*\.whl")
    wheel = next(file for file in files if names.fullmatch(file["filename"]))
    with urllib.request.urlopen(wheel["url"]) as reply:  # noqa: S310
        data = reply.read()
    if hashlib.sha256(data).hexdigest() != wheel["hashes"]["sha256"]:
        sys.exit(f"error: {wheel['filename']}: wrong sha256; try again, or install uv {version} into {folder}/bin")
    program = folder / "bin" / "uv"
    program.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        program.write_bytes(archive.read(name))
    program.chmod(0o755)


def main() -> None:
    """Try a venv first, which respects the user's pip configuration; else the wheel."""
    version, folder = sys.argv[1], Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"uv=={version}"]
        subprocess.run([*command, "--disable-pip-version-check"], check=True)
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(folder, ignore_errors=True)
        from_wheel(version, folder)


if __name__ == "__main__":
    main()
