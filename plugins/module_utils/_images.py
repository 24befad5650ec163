# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""Archives of container images: what is in one, and what is to be done with it on a host that has some images already.

`read_archive` reads a file, `decide` is pure; both run on the controller and on hosts.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import tarfile
import typing as t
import zlib

LIMIT = 8 << 20  # octets of a manifest or of an image's configuration
DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
# Where podman says which registry an image that was loaded is from, docker says nothing.
IMPLIED = re.compile(r"^(docker\.io/library/|docker\.io/|localhost/)")
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


class ArchiveError(Exception):
    """An archive that cannot be used; the text is one sentence for the user."""


class Image(t.NamedTuple):
    """One image: the digest of its configuration, that of its manifest ("" when the archive has none), its names."""

    config: str
    manifest: str
    tags: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Under what an engine may know it: docker by its configuration, docker on containerd by its manifest."""
        return tuple(digest for digest in (self.config, self.manifest) if digest)


class Archive(t.NamedTuple):
    """What an archive holds. `layers` are the members of each image, for archives that docker has not written."""

    images: tuple[Image, ...]
    docker: bool
    manifest: bytes  # manifest.json, as docker would have written it


class Decision(t.NamedTuple):
    """What is to be done: whether to load the archive, and names to give to images that are there, as (id, name)."""

    load: bool
    tags: tuple[tuple[str, str], ...]

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return self.load or bool(self.tags)


def full_name(name: str) -> str:
    """A name as docker lists it: without an implied registry, with a tag."""
    short = IMPLIED.sub("", name)
    return short if "@" in short or ":" in short.rpartition("/")[2] else f"{short}:latest"


def parse_listing(text: str) -> dict[str, set[str]]:
    """Images of a host by their ids, with their names, from lines "ID NAME:TAG"."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        identity, _space, name = line.strip().partition(" ")
        if not identity:
            continue
        names = found.setdefault(identity if ":" in identity else f"sha256:{identity}", set())
        if name and "<none>" not in name:
            names.add(full_name(name))
    return found


def decide(images: t.Iterable[Image], present: t.Mapping[str, t.AbstractSet[str]]) -> Decision:
    """What makes a host have all images under all their names."""
    tags: list[tuple[str, str]] = []
    load = False
    for image in images:
        known = [identity for identity in image.ids if identity in present]
        if not known:
            load = True
            continue
        tags += [(known[0], tag) for tag in image.tags if full_name(tag) not in present[known[0]]]
    return Decision(load, tuple(tags))


# --- archives -------------------------------------------------------------------------------------------------


class _Members:
    """Files of a tar archive by their names."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._known = {member.name.lstrip("./"): member for member in archive.getmembers()}

    def has(self, name: str) -> bool:
        return name in self._known

    def read(self, name: str) -> bytes:
        member = self._known.get(name)
        stream = self._archive.extractfile(member) if member is not None and member.isfile() else None
        if member is None or stream is None:
            raise ArchiveError(f"it names {name!r}, which is not in it")
        if member.size > LIMIT:
            raise ArchiveError(f"its {name} has {member.size} bytes, and at most {LIMIT} are read")
        return stream.read()

    def json(self, name: str) -> t.Any:
        try:
            return json.loads(self.read(name).decode())
        except ValueError as error:
            raise ArchiveError(f"its {name} is no JSON ({error})") from None

    def blob(self, digest: t.Any) -> str:
        """The name of a blob. Raises ArchiveError for what is no digest."""
        if not isinstance(digest, str) or not DIGEST.match(digest):
            raise ArchiveError(f"it names the digest {digest!r}, and only sha256 is known")
        return f"blobs/sha256/{digest[7:]}"


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _manifests(members: _Members, entry: t.Any, depth: int = 3) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    """Digest and content of each image's manifest below an entry of an index; attestations are passed over."""
    name = members.blob(entry.get("digest"))
    if not members.has(name) or (entry.get("platform") or {}).get("os") == "unknown":
        return  # an index may name platforms that are not in the archive
    content = members.json(name)
    if entry.get("mediaType") in INDEXES or "manifests" in content:
        if depth > 0:
            for inner in content.get("manifests") or []:
                yield from _manifests(members, inner, depth - 1)
        return
    yield entry["digest"], content


def _oci_names(entry: t.Any) -> tuple[str, ...]:
    notes = entry.get("annotations") or {}
    name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name") or ""
    # a reference of OCI may be a bare tag, which names no image
    return (full_name(name),) if ":" in name or "/" in name else ()


def _read_oci(members: _Members) -> Archive:
    images, written = [], []
    for entry in members.json("index.json").get("manifests") or []:
        for digest, manifest in _manifests(members, entry):
            config = manifest["config"]["digest"]
            tags = _oci_names(entry)
            images.append(Image(config, digest, tags))
            layers = [members.blob(layer["digest"]) for layer in manifest["layers"]]
            written.append({"Config": members.blob(config), "RepoTags": list(tags), "Layers": layers})
    return Archive(tuple(images), False, json.dumps(written).encode())


def _read_docker(members: _Members) -> Archive:
    by_config = {}
    if members.has("index.json"):
        by_config = {image.config: image.manifest for image in _read_oci(members).images}
    content = members.json("manifest.json")
    images = []
    for entry in content:
        config = _digest(members.read(entry["Config"]))
        tags = tuple(full_name(tag) for tag in entry.get("RepoTags") or [])
        images.append(Image(config, by_config.get(config, ""), tags))
    return Archive(tuple(images), True, json.dumps(content).encode())


def read_archive(path: str) -> Archive:
    """What is in an archive of "docker save", or in a tar of an OCI layout, compressed or not.

    Raises ArchiveError for anything else, OSError for a file that cannot be read.
    """
    try:
        with tarfile.open(path) as archive:
            members = _Members(archive)
            if members.has("manifest.json"):
                found = _read_docker(members)
            elif members.has("index.json"):
                found = _read_oci(members)
            else:
                raise ArchiveError("it has neither manifest.json, as docker save writes it, nor OCI's index.json")
    except ArchiveError as error:
        raise ArchiveError(f"{path} is no archive of images: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(
            f"{path} is no archive of images: it cannot be read as tar, plain or compressed with gzip, bzip2 or xz"
            f" ({error})"
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{path} is no archive of images: its manifest has not the form of one ({error!r})"
        ) from None
    if not found.images:
        raise ArchiveError(f"{path} is no archive of images: it holds none")
    return found


def write_for_docker(path: str, target: str, manifest: bytes) -> None:
    """Copy an archive of an OCI layout and add what an older docker needs to load it, at `target`, uncompressed."""
    with tarfile.open(path) as archive, tarfile.open(target, "w") as written:
        for member in archive:
            if member.isfile():
                member.name = member.name.lstrip("./")
                written.addfile(member, archive.extractfile(member))
        added = tarfile.TarInfo("manifest.json")
        added.size = len(manifest)
        written.addfile(added, io.BytesIO(manifest))
