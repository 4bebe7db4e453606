"""Builds the protobuf stubs, and the image that `buf` checks, into `protos/gen`.

hatchling runs `StubsHook` for every build, editable ones too, so an edited .proto reaches the code
with the next `uv run`.
"""

import importlib.util
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from protovalidate._gen.buf.validate import validate_pb  # its descriptor has no public address

PROTOS = Path(__file__).parent
GEN = PROTOS / "gen"
VALIDATE = "buf/validate/validate.proto"
STATUS = "google/rpc/status.proto"
STATUS_PACKAGE = "googleapis-common-protos==1.76.0"
GOOGLE = Path(grpc_tools.__file__).parent / "_proto"


def run(*arguments: str) -> None:
    """Compiles every .proto file, with the descriptors of what they import at hand."""
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("byline/**/*.proto"))
    with TemporaryDirectory() as folder:
        known = Path(folder, "imports.binpb")
        known.write_bytes(_imported_descriptors(Path(folder, "google.binpb")))
        command = ["protoc", f"-I{PROTOS}", f"--descriptor_set_in={known}", *arguments, *files]
        if protoc.main(command) != 0:
            raise RuntimeError("protoc failed: " + " ".join(command))


def _imported_descriptors(scratch: Path) -> bytes:
    """The descriptors of validate.proto, of status.proto and of what these import."""
    files = [*validate_pb.desc().proto.dependency, STATUS]
    folders = [f"-I{folder}" for folder in (GOOGLE, *_folders_of("google.rpc"))]
    status = protoc.main(
        ["protoc", *folders, "--include_imports", f"--descriptor_set_out={scratch}", *files]
    )
    if status != 0:
        raise RuntimeError("protoc failed on " + ", ".join(files))
    known = descriptor_pb2.FileDescriptorSet.FromString(scratch.read_bytes())
    known.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return known.SerializeToString()


def _folders_of(package: str) -> list[Path]:
    """The folders that paths like `google/rpc/status.proto` start in."""
    spec = importlib.util.find_spec(package)
    locations = (spec and spec.submodule_search_locations) or ()
    return [Path(location).parents[package.count(".")] for location in locations]


def build() -> None:
    """Writes the message and service modules, their type stubs, and the image.

    The image is a descriptor set with comments: `buf lint` and `buf breaking` take it, and need no
    network for what it imports.
    """
    shutil.rmtree(GEN, ignore_errors=True)
    GEN.mkdir()
    run(
        f"--python_out={GEN}",
        f"--grpc_python_out={GEN}",
        f"--mypy_out={GEN}",
        f"--mypy_grpc_out=only_async:{GEN}",
    )
    run(f"--python_out={GEN}", f"--mypy_out={GEN}", VALIDATE)
    image = GEN / "image.binpb"
    run("--include_imports", "--include_source_info", f"--descriptor_set_out={image}")


class StubsHook(BuildHookInterface[Any]):
    """Makes the stubs part of every build."""

    def dependencies(self) -> list[str]:
        """Names what a build needs beside `build-system.requires`: it carries status.proto."""
        return [STATUS_PACKAGE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds the stubs before hatchling collects files."""
        del version, build_data
        build()
