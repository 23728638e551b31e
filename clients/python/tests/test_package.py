"""The wheel and the sdist, as users get them: built, installed into a new environment, used, and type-checked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PHOTOS, REPOSITORY

import matchpoint

CLIENT = REPOSITORY / "clients" / "python"
SOURCE = CLIENT / "src" / "matchpoint"

# A stranger to the repository: nothing but the installed package is on its path.
PROGRAM = """
import sys
import matchpoint

client: matchpoint.Client = matchpoint.Client(sys.argv[1])
accepted: bool = client.search(b"picture").accepted
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sdist, and the wheel that is built from it and from nothing else."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, CLIENT, cwd=out)
    yield out


def test_the_wheel_has_the_client_the_protocol_its_stubs_and_the_licences(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {f"matchpoint/{path.name}" for path in SOURCE.iterdir() if path.is_file()}
    protocols = {path.stem for path in (REPOSITORY / "proto" / "matchpoint" / "v1").glob("*.proto")}
    ends = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    generated = {f"matchpoint/v1/{name}{end}" for name in protocols for end in ends} | {"matchpoint/v1/__init__.py"}
    assert {name for name in names if ".dist-info/" not in name} == ours | generated
    assert "matchpoint/py.typed" in names
    for licence in ("LICENSE-APACHE", "LICENSE-MIT"):
        (packed,) = [name for name in names if name.endswith(f".dist-info/licenses/{licence}")]
        assert zipfile.ZipFile(wheel).read(packed) == (REPOSITORY / licence).read_bytes()


def test_the_generated_code_is_that_of_the_protocol_in_this_checkout(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        for path in (SOURCE / "v1").glob("*.py*"):
            assert packed.read(f"matchpoint/v1/{path.name}") == path.read_bytes(), f"run hatch_build.py: {path.name}"


def test_the_sdist_has_the_protocol_to_build_from_and_nothing_of_this_machine(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    wanted = {"pyproject.toml", "README.md", "hatch_build.py", "LICENSE-MIT", "proto/matchpoint/v1/retrieval.proto"}
    assert wanted <= names
    assert not [name for name in names if "pycache" in name or name.startswith("tests")]


def test_the_version_is_that_of_the_program() -> None:
    program = re.search(r'^version = "(.*)"$', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)
    client = re.search(r'^version = "(.*)"$', (CLIENT / "pyproject.toml").read_text(), re.MULTILINE)
    assert program and client and program[1] == client[1]


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel, and the newest of all that it needs: the tests run with older."""
    (wheel,) = built.glob("*.whl")
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", place, cwd=place)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=place)
    return python


def test_the_installed_package_runs_the_first_program_of_the_readme(installed: Path, tmp_path: Path) -> None:
    run(installed, "-W", "error", "-c", "import matchpoint; matchpoint.Client('127.0.0.1:1').close()", cwd=tmp_path)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (first,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert len(first.splitlines()) == 5
    if "MATCHPOINT_SERVER" in os.environ:
        picture = PHOTOS / "images" / "gc_monuments_tajMahal" / "q2_photometric.jpg"
        (tmp_path / "photo.jpg").write_bytes(picture.read_bytes())
        (tmp_path / "first.py").write_text(first)
        said = run(installed, "first.py", cwd=tmp_path)
        assert said.startswith("True gc_monuments_tajMahal\nACCEPT: gc_monuments_tajMahal"), said


def test_programs_that_use_it_are_type_checked(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(PROGRAM.replace(".accepted", ".granted"))
    check = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "--python-executable", str(installed)]
    for program, status, says in (("right.py", 0, "Success"), ("wrong.py", 1, 'has no attribute "granted"')):
        ran = subprocess.run([*check, program], cwd=tmp_path, capture_output=True, text=True)
        assert (ran.returncode, says in ran.stdout) == (status, True), ran.stdout


def test_everything_public_is_named_once() -> None:
    assert sorted(matchpoint.__all__) == matchpoint.__all__
    assert all(hasattr(matchpoint, name) and getattr(matchpoint, name).__doc__ for name in matchpoint.__all__)
