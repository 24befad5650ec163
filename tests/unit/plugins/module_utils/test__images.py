# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What archives of images hold, and what a host lacks of it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _images as images

CONFIG = json.dumps({"architecture": "amd64", "rootfs": {"type": "layers"}}).encode()
ID = "sha256:" + hashlib.sha256(CONFIG).hexdigest()
OTHER = "sha256:" + "0" * 64


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def blob(content: bytes) -> str:
    return "blobs/sha256/" + digest(content)[7:]


def write(path: Path, members: t.Mapping[str, bytes], mode: t.Any = "w") -> str:
    with tarfile.open(str(path), mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def saved(*tags: str) -> dict[str, bytes]:
    """What an older docker save writes."""
    name = f"{ID[7:]}.json"
    manifest = [{"Config": name, "RepoTags": list(tags) or None, "Layers": ["a/layer.tar"]}]
    return {"a/layer.tar": b"layer", name: CONFIG, "manifest.json": json.dumps(manifest).encode()}


def layout(name: str = "", more: t.Sequence[t.Mapping[str, t.Any]] = ()) -> tuple[dict[str, bytes], str]:
    """An OCI layout, and the digest of its image's manifest."""
    manifest = json.dumps({"config": {"digest": ID}, "layers": [{"digest": digest(b"layer")}]}).encode()
    entry = {"digest": digest(manifest), "annotations": {"org.opencontainers.image.ref.name": name}}
    index = json.dumps({"manifests": [entry, *more]}).encode()
    files = {"oci-layout": b"{}", "index.json": index, blob(manifest): manifest, blob(CONFIG): CONFIG}
    return {**files, blob(b"layer"): b"layer"}, digest(manifest)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_what_docker_saves_in_every_compression(tmp_path: Path, mode: str) -> None:
    found = images.read_archive(write(tmp_path / "a", saved("shop/web:1", "shop/web"), mode))
    assert found.docker
    assert found.images == (images.Image(ID, "", ("shop/web:1", "shop/web:latest")),)


def test_an_image_without_a_name(tmp_path: Path) -> None:
    assert images.read_archive(write(tmp_path / "a", saved())).images == (images.Image(ID, "", ()),)


def test_what_a_newer_docker_saves_has_both_digests(tmp_path: Path) -> None:
    files, manifest = layout()
    files["manifest.json"] = json.dumps([{"Config": blob(CONFIG), "RepoTags": ["a:1"], "Layers": []}]).encode()
    found = images.read_archive(write(tmp_path / "a", files))
    assert (found.docker, found.images) == (True, (images.Image(ID, manifest, ("a:1",)),))


@pytest.mark.parametrize(("name", "tags"), [("a.example/b:1", ("a.example/b:1",)), ("latest", ()), ("", ())])
def test_a_layout_of_oci(tmp_path: Path, name: str, tags: tuple[str, ...]) -> None:
    files, manifest = layout(name)
    found = images.read_archive(write(tmp_path / "a", {f"./{path}": content for path, content in files.items()}))
    assert (found.docker, found.images) == (False, (images.Image(ID, manifest, tags),))


def test_what_an_index_names_and_is_no_image_here_is_passed_over(tmp_path: Path) -> None:
    attestation = {"digest": ID, "platform": {"os": "unknown"}}
    files, manifest = layout("a:1", [attestation, {"digest": OTHER, "platform": {"os": "linux"}}])
    inner = files.pop("index.json")
    files[blob(inner)] = inner
    outer = {"manifests": [{"digest": digest(inner), "mediaType": images.INDEXES[0]}]}
    files["index.json"] = json.dumps(outer).encode()
    assert [image.manifest for image in images.read_archive(write(tmp_path / "a", files)).images] == [manifest]


def test_an_older_docker_gets_a_layout_in_its_own_form(tmp_path: Path) -> None:
    files, _manifest = layout("a:1")
    path = write(tmp_path / "a", files, "w:gz")
    target = str(tmp_path / "b")
    images.write_for_docker(path, target, images.read_archive(path).manifest)
    found = images.read_archive(target)
    assert (found.docker, found.images[0].config, found.images[0].tags) == (True, ID, ("a:1",))
    with tarfile.open(target) as archive:
        names = {member.name for member in archive}
        (entry,) = json.loads(archive.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert {entry["Config"], *entry["Layers"]} <= names


BAD_DIGEST = {"index.json": json.dumps({"manifests": [{"digest": "md5:../../etc/passwd"}]}).encode()}


@pytest.mark.parametrize(
    ("members", "wrong"),
    [
        ({"a": b""}, "neither manifest.json"),
        ({"manifest.json": b"{"}, "its manifest.json is no JSON"),
        ({"manifest.json": b"[]"}, "it holds none"),
        ({"manifest.json": b"[1]"}, "has not the form of one"),
        ({"manifest.json": b'[{"Config": "x"}]'}, "it names 'x', which is not in it"),
        ({"manifest.json": b" " * (images.LIMIT + 1)}, "and at most"),
        (BAD_DIGEST, "it names the digest 'md5:../../etc/passwd'"),
        ({"index.json": b"{}"}, "it holds none"),
        ({"index.json": b"[]"}, "has not the form of one"),
    ],
)
def test_archives_of_a_wrong_form(tmp_path: Path, members: dict[str, bytes], wrong: str) -> None:
    with pytest.raises(images.ArchiveError, match="is no archive of images: ") as caught:
        images.read_archive(write(tmp_path / "a", members))
    assert wrong in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"\x28\xb5\x2f\xfd\0\0\0\0", b"\x1f\x8b\x08\0" + b"x" * 40])
def test_what_is_no_archive_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(images.ArchiveError, match="cannot be read as tar"):
        images.read_archive(str(tmp_path / "a"))


def test_an_archive_that_ends_too_early(tmp_path: Path) -> None:
    whole = Path(write(tmp_path / "a", saved("a:1"), "w:gz")).read_bytes()
    (tmp_path / "b").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(images.ArchiveError):
        images.read_archive(str(tmp_path / "b"))


# --- decisions ------------------------------------------------------------------------------------------------

WEB = images.Image(ID, "", ("shop/web:1",))


@pytest.mark.parametrize(
    ("listing", "load", "tags"),
    [
        ("", True, ()),
        (f"{OTHER} shop/web:1\n", True, ()),
        (f"{ID} shop/web:1\n", False, ()),
        (f"{ID[7:]} localhost/shop/web:1\n", False, ()),
        (f"{ID} docker.io/shop/web:1\n", False, ()),
        (f"{ID} <none>:<none>\n", False, ((ID, "shop/web:1"),)),
        (f"{ID} shop/web:2\n{OTHER} shop/web:1\n", False, ((ID, "shop/web:1"),)),
    ],
)
def test_what_a_host_lacks(listing: str, load: bool, tags: tuple[tuple[str, str], ...]) -> None:
    decision = images.decide([WEB], images.parse_listing(listing))
    assert decision == images.Decision(load, tags)
    assert decision.changed == (load or bool(tags))


def test_an_engine_may_know_an_image_by_its_manifest() -> None:
    image = images.Image(ID, OTHER, ("a:1",))
    assert not images.decide([image], images.parse_listing(f"{OTHER} a:1\n")).changed


def test_one_missing_image_of_two_is_enough_to_load() -> None:
    assert images.decide([WEB, images.Image(OTHER, "", ())], images.parse_listing(f"{ID} shop/web:1\n")).load


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("a", "a:latest"),
        ("a:1", "a:1"),
        ("registry.example:5000/a", "registry.example:5000/a:latest"),
        ("docker.io/library/a", "a:latest"),
        ("a@sha256:0", "a@sha256:0"),
    ],
)
def test_names(name: str, full: str) -> None:
    assert images.full_name(name) == full
