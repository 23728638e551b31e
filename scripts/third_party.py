#!/usr/bin/env python3
"""What the program and the module for Python are made of that others made: licences, and a bill of materials.

    third_party.py licences            write the THIRD-PARTY-LICENSES.txt of both
    third_party.py licences --check    say whether these files are current
    third_party.py sbom FILE           write a CycloneDX 1.6 bill of materials of the program as JSON
    third_party.py sbom --check        say whether it has all that cargo links, as Cargo.lock has it

All come from what cargo resolves for what is shipped (Linux, no tests), offline once the crates
are fetched. Run `licences` after a change of Cargo.lock.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What is shipped, by its package: what it is called, and where its licences go.
SHIPPED = {
    "matchpoint": ("the program `matchpoint`", ROOT / "THIRD-PARTY-LICENSES.txt"),
    "matchpoint-calibration-python": (
        "the Python module `matchpoint_calibration`",
        ROOT / "clients/calibration-python/THIRD-PARTY-LICENSES.txt",
    ),
}
TARGET = "x86_64-unknown-linux-gnu"
MODEL = ROOT / "models/efficientnet-lite0"

# What crates bring along in other languages, and where its licence is.
BUNDLED = {
    "libwebp-sys": ("libwebp", ["vendor/COPYING"]),
    "ring": ("BoringSSL, fiat-crypto and others", ["LICENSE-BoringSSL", "LICENSE-other-bits"]),
    "turbojpeg-sys": ("libjpeg-turbo", ["libjpeg-turbo/LICENSE.md", "libjpeg-turbo/README.ijg"]),
    "zstd-sys": ("Zstandard", ["zstd/LICENSE"]),
}
NAMES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|COPYRIGHT|UNLICENSE)", re.IGNORECASE)


def metadata() -> dict:
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--features=object-stores"]
    command += [f"--filter-platform={TARGET}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"cargo metadata failed:\n{done.stderr}")
    return json.loads(done.stdout)


def shipped(found: dict, name: str) -> tuple[dict[str, dict], dict[str, list[str]]]:
    """The packages that are linked into one of ours, by their ids, and what each depends on."""
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    [root] = [id for id, package in packages.items() if package["name"] == name]
    edges: dict[str, list[str]] = {}
    waiting = [root]
    while waiting:
        id = waiting.pop()
        if id in edges:
            continue
        linked = [
            one["pkg"] for one in nodes[id]["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])
        ]
        # What runs in the compiler is in no program.
        edges[id] = [one for one in linked if not is_macro(packages[one])]
        waiting += edges[id]
    return {id: packages[id] for id in edges}, edges


def is_macro(package: dict) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def is_ours(package: dict) -> bool:
    return package["source"] is None


def read(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def licence_files(package: dict) -> list[Path]:
    folder = Path(package["manifest_path"]).parent
    return sorted(path for path in folder.iterdir() if path.is_file() and NAMES.match(path.name))


def texts(package: dict) -> tuple[str, list[Path]]:
    """The licence that is chosen of a package's, and the files with its text; none for the common one."""
    licence = package["license"] or "see its text"
    files = licence_files(package)
    notices = [path for path in files if path.name.upper().startswith("NOTICE")]
    options = [option.strip(" ()") for option in re.split(r" OR |/", licence)]
    if " AND " not in licence and "Apache-2.0" in options:
        return "Apache-2.0", notices
    return licence, files


def common_text(package: dict, licence: str) -> str:
    """The text of a licence that a package names and does not bring."""
    if "MIT" not in licence or " AND " in licence:
        sys.exit(f"{package['name']} {package['version']} ({licence}) has no file with its licence")
    whose = ", ".join(package["authors"]) or f"the authors of {package['name']}"
    return re.sub(r"Copyright .*", f"Copyright (c) {whose}", read(ROOT / "LICENSE-MIT"), count=1)


def licences(found: dict, root: str, called: str) -> str:
    packages, _ = shipped(found, root)
    foreign = sorted((one for one in packages.values() if not is_ours(one)), key=lambda one: one["name"])
    common: list[str] = []
    sections: dict[str, list[str]] = {}

    def add(name: str, path: Path) -> None:
        sections.setdefault(read(path), []).append(name)

    for package in foreign:
        name = f"{package['name']} {package['version']}"
        licence, files = texts(package)
        if licence == "Apache-2.0":
            common.append(name)
        elif not files:
            sections.setdefault(common_text(package, licence), []).append(f"{name} ({licence})")
        for path in files:
            add(f"{name} ({licence})", path)
        what, bundled = BUNDLED.get(package["name"], ("", []))
        for place in bundled:
            path = Path(package["manifest_path"]).parent / place
            if not path.is_file():
                sys.exit(f"{name} has no {place}; adapt BUNDLED in {Path(__file__).name}")
            if path not in files:
                add(f"{what}, in {name}", path)
    parts = [
        f"What others made in {called}, and under which terms.\n"
        "Written by scripts/third_party.py; do not edit.\n",
        heading(common) + read(ROOT / "LICENSE-APACHE"),
    ]
    parts += [heading(names) + text for text, names in sorted(sections.items(), key=lambda one: one[1])]
    return "\n".join(parts)


def files_of_licences() -> list[tuple[Path, str]]:
    found = metadata()
    return [(path, licences(found, root, called)) for root, (called, path) in SHIPPED.items()]


def is_written(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def heading(names: list[str]) -> str:
    rule = "=" * 100
    return f"{rule}\n" + "\n".join(names) + f"\n{rule}\n\n"


def checksums() -> dict[tuple[str, str], str]:
    text = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    row = r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"'
    return {(name, version): digest for name, version, digest in re.findall(row, text)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sbom() -> dict:
    packages, edges = shipped(metadata(), "matchpoint")
    digests = checksums()

    def ref(id: str) -> str:
        return f"pkg:cargo/{packages[id]['name']}@{packages[id]['version']}"

    def component(id: str) -> dict:
        package = packages[id]
        found = {
            "type": "application" if package["name"] == "matchpoint" else "library",
            "bom-ref": ref(id),
            "name": package["name"],
            "version": package["version"],
            "purl": ref(id),
        }
        if package["license"]:
            found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        digest = digests.get((package["name"], package["version"]))
        if digest:
            found["hashes"] = [{"alg": "SHA-256", "content": digest}]
        elif not is_ours(package):
            sys.exit(f"{package['name']} has no checksum in Cargo.lock")
        return found

    [root] = [id for id, package in packages.items() if package["name"] == "matchpoint"]
    others = sorted((id for id in packages if id != root), key=ref)
    components = [component(id) for id in others]
    beside = [*runtimes(), *model_files()]
    dependencies = [{"ref": ref(id), "dependsOn": sorted(ref(one) for one in edges[id])} for id in others]
    depends = sorted(ref(one) for one in edges[root]) + [one["bom-ref"] for one in beside]
    content = json.dumps([components, beside], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # Of the content, so that the same program has the same.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": component(root)},
        "components": [*components, *beside],
        "dependencies": [{"ref": ref(root), "dependsOn": depends}, *dependencies],
    }


def missing_from_sbom() -> list[str]:
    """What cargo says that it links, and the bill has not, or not with the checksum of Cargo.lock.

    The bill may have more: `cargo metadata` knows features of the whole workspace alone.
    """
    command = ["cargo", "tree", "--locked", "--package=matchpoint", "--features=object-stores"]
    command += ["--edges=normal,no-proc-macro", f"--target={TARGET}", "--prefix=none", "--format={p}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"cargo tree failed:\n{done.stderr}")
    linked = {tuple(line.split()[:2]) for line in done.stdout.splitlines() if line}
    linked = {(name, version.removeprefix("v")) for name, version in linked}
    bill = sbom()
    components = [bill["metadata"]["component"], *bill["components"]]
    crates = {
        (one["name"], one["version"]): one
        for one in components
        if one.get("purl", "").startswith("pkg:cargo/")
    }
    wrong = [f"{name} {version} is not in it" for name, version in sorted(linked - crates.keys())]
    for key, digest in checksums().items():
        if key in crates and [one["content"] for one in crates[key].get("hashes", [])] != [digest]:
            wrong.append(f"{key[0]} {key[1]} has another checksum than in Cargo.lock")
    names = {one["name"] for one in components}
    wrong += [f"{name} is not in it" for name in ["onnxruntime"] if name not in names]
    return wrong


def runtimes() -> list[dict]:
    """ONNX Runtime, which is loaded and not linked: the wheel that scripts/fetch-onnxruntime.sh pins."""
    text = (ROOT / "scripts/fetch-onnxruntime.sh").read_text(encoding="utf-8")
    version = re.search(r"package=onnxruntime version=([\d.]+)", text)
    digest = re.search(r'"onnxruntime x86_64"\)\s+wheel_sha256=([0-9a-f]{64})', text)
    if not version or not digest:
        sys.exit("scripts/fetch-onnxruntime.sh: the pinned wheel cannot be read; adapt this script")
    purl = f"pkg:pypi/onnxruntime@{version[1]}"
    return [
        {
            "type": "library",
            "bom-ref": purl,
            "name": "onnxruntime",
            "version": version[1],
            "purl": purl,
            "licenses": [{"expression": "MIT"}],
            "hashes": [{"alg": "SHA-256", "content": digest[1]}],
        }
    ]


def model_files() -> list[dict]:
    files = sorted(MODEL.glob("*.onnx"))
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"file:{path.relative_to(ROOT)}",
            "name": str(path.relative_to(ROOT)),
            "licenses": [{"expression": "Apache-2.0"}],
            "hashes": [{"alg": "SHA-256", "content": sha256(path)}],
        }
        for path in files
    ]


def main() -> int:
    match sys.argv[1:]:
        case ["licences"]:
            for path, text in files_of_licences():
                path.write_text(text, encoding="utf-8")
        case ["licences", "--check"]:
            files = files_of_licences()
            changed = [path for path, text in files if not is_written(path, text)]
            for path in changed:
                print(f"{path.relative_to(ROOT)} is not current: run scripts/third_party.py licences")
            return 1 if changed else 0
        case ["sbom", "--check"]:
            wrong = missing_from_sbom()
            print("\n".join(f"bill of materials: {problem}" for problem in wrong), end="\n" if wrong else "")
            return 1 if wrong else 0
        case ["sbom", file]:
            Path(file).write_text(json.dumps(sbom(), indent=2) + "\n", encoding="utf-8")
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
