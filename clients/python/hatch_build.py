"""Generates `matchpoint.v1` from the protocol whenever a wheel, an sdist or an editable install is built, so that it
is never older than proto/ and none of it is checked in. `python hatch_build.py` does the same without a build."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
# In the repository, or in an sdist.
PROTO = next((p for p in (HERE.parent.parent / "proto", HERE / "proto") if p.is_dir()), None)


def generate(into: Path) -> None:
    """Writes the modules of the protocol and their type stubs to `into`/matchpoint/v1."""
    import grpc_tools
    from grpc_tools import protoc

    if PROTO is None:
        raise FileNotFoundError(f"there is no folder proto beside {HERE}, nor two folders above it")
    package = into / "matchpoint" / "v1"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""The protocol, generated from proto/matchpoint/v1."""\n')
    # google/rpc and google/longrunning come as Python code with googleapis-common-protos: a second `google` would
    # hide the installed one.
    sources = sorted((PROTO / "matchpoint" / "v1").glob("*.proto"))
    suffix = ".exe" if sys.platform == "win32" else ""
    plugin = Path(sysconfig.get_path("scripts")) / f"protoc-gen-mypy_grpc{suffix}"
    if not plugin.exists():
        found = shutil.which("protoc-gen-mypy_grpc")
        if found is None:
            raise FileNotFoundError("protoc-gen-mypy_grpc is missing: pip install mypy-protobuf")
        plugin = Path(found)
    # The second folder has google/protobuf.
    includes = [f"-I{PROTO}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    arguments = ["protoc", *includes, f"--plugin=protoc-gen-mypy_grpc={plugin}", f"--mypy_grpc_out=quiet:{into}"]
    arguments += [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main([*arguments, *map(str, sources)]) != 0:
        raise RuntimeError("the protocol cannot be compiled; protoc says why above")


class GenerateProtocol(BuildHookInterface):  # type: ignore[type-arg]
    """What hatchling calls before it packs anything."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(HERE / "src")


if __name__ == "__main__":
    generate(HERE / "src")
