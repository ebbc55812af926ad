"""`pinnace image`: the images of this machine, which all its nodes share."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from pinnace.base.errors import UserError
from pinnace.cli import options as common


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    load = verbs.add_parser("load", help="take in a docker-archive or OCI layout (tar, gzipped or not, or directory)")
    load.add_argument("path", type=Path)
    verbs.add_parser("list", help="list the images")
    remove = verbs.add_parser("remove", help="remove images")
    remove.add_argument("reference", nargs="+")
    busybox = verbs.add_parser("build-busybox", help="build a busybox image from this machine's static busybox")
    busybox.add_argument("--tag", default="pinnace.local/busybox:1")
    python = verbs.add_parser("build-python", help="build an image of this Python, with a directory of yours as /app")
    python.add_argument("--app", type=Path, help="what becomes /app")
    python.add_argument("--tag", default="pinnace.local/python:1")


def run(options: argparse.Namespace) -> int:
    from pinnace.runtime.cri import RuntimeFault

    try:
        return _act(options)
    except RuntimeFault as error:
        raise UserError(str(error)) from error


def _act(options: argparse.Namespace) -> int:
    match options.action:
        case "load":
            return asyncio.run(_load(options.path))
        case "list":
            return asyncio.run(_list())
        case "remove":
            return asyncio.run(_remove(options.reference))
        case "build-busybox":
            from pinnace.runtime.images import build

            return _build(lambda path: build.build_busybox(path, options.tag))
        case _:
            from pinnace.runtime.images import build

            if options.app and not options.app.is_dir():
                raise UserError(f"--app {options.app} is no directory")
            files = app_files(options.app) if options.app else {}
            return _build(lambda path: build.build_python(path, options.tag, files=files))


def app_files(directory: Path) -> dict[str, bytes]:
    """The files of a directory, by their names below /app."""
    return {
        f"/app/{path.relative_to(directory)}": path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def _build(build: Callable[[Path], object]) -> int:
    common.images()          # says at once what this machine lacks
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image.tar"
        build(path)
        return asyncio.run(_load(path))


async def _load(path: Path) -> int:
    images = common.images()
    for image in await images.load(str(path)):
        print(f"{' '.join(image.tags) or image.id}  {_megabytes(image.size)}")
    return 0


async def _list() -> int:
    images = await common.images().images()
    print(f"{'IMAGE':<60} {'ID':<14} SIZE")
    for image in images:
        for name in image.tags or image.digests or ("<none>",):
            print(f"{name:<60} {image.id.removeprefix('sha256:')[:12]:<14} {_megabytes(image.size)}")
    return 0


async def _remove(references: list[str]) -> int:
    images = common.images()
    for reference in references:
        await images.remove(reference)
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}MB"
