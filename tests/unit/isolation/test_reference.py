"""What the name of an image means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import UsageError
from sovctl.isolation.reference import parse_reference
from sovctl.model.image import ImageKind

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("nvidia/cuda:12.4", "docker.io/nvidia/cuda:12.4"),
        ("reg.example/team/img:tag", "reg.example/team/img:tag"),
        ("reg.example#team/img:tag", "reg.example/team/img:tag"),
        ("reg#img:tag", "reg:443/img:tag"),
        ("docker://reg.example/img", "reg.example/img:latest"),
        ("localhost:5000/img:1", "localhost:5000/img:1"),
        ("localhost/img", "localhost/img:latest"),
        (f"reg.example/img@{DIGEST}", f"reg.example/img@{DIGEST}"),
        (f"reg.example/img:tag@{DIGEST}", f"reg.example/img@{DIGEST}"),
    ],
)
def test_names_in_registries(text: str, canonical: str) -> None:
    reference = parse_reference(text)
    assert (reference.kind, reference.canonical) == (ImageKind.REGISTRY, canonical)
    assert parse_reference(f"docker://{reference.canonical}").canonical == canonical


@pytest.mark.parametrize(
    ("text", "kind", "path", "tag"),
    [
        ("/img/x.sqsh", ImageKind.SQUASHFS, "/img/x.sqsh", ""),
        ("./x.squashfs", ImageKind.SQUASHFS, "/home/u/x.squashfs", ""),
        ("./x.sif", ImageKind.SIF, "/home/u/x.sif", ""),
        ("/srv/bundle", ImageKind.DIRECTORY, "/srv/bundle", ""),
        ("oci:/srv/layout:v1", ImageKind.OCI_LAYOUT, "/srv/layout", "v1"),
        ("oci:layout", ImageKind.OCI_LAYOUT, "/home/u/layout", ""),
        ("oci:/a:b/layout", ImageKind.OCI_LAYOUT, "/a:b/layout", ""),
    ],
)
def test_files_and_directories(text: str, kind: ImageKind, path: str, tag: str) -> None:
    reference = parse_reference(text, "/home/u")
    assert (reference.kind, reference.path, reference.tag) == (kind, path, tag)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("x.sqsh", "looks like a file"),
        ("--mount=/:/x", "looks like an option"),
        ("img name", "blank"),
        ("img\nname", "control character"),
        ("Reg.example/Team/Img", "is not a name"),
        ("reg.example/img:", "is not a tag"),
        ("reg.example/img@", "is not a digest"),
        ("reg.example/img@sha256:12", "is not a digest"),
        ("reg.example/../img", "is not a name"),
        ("http://reg.example/img", "not a kind of image"),
        ("reg.example#", "is not a name"),
        ("a" * 5000, "too long"),
        ("oci:", "empty"),
    ],
)
def test_what_is_no_image_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_reference(text)


@given(st.text(max_size=60))
def test_any_text_is_an_image_or_one_sentence(text: str) -> None:
    try:
        reference = parse_reference(text, "/w")
    except UsageError as error:
        assert error.message
        return
    assert not reference.canonical.startswith("-")
    assert reference.canonical.isprintable()
    assert reference.kind is ImageKind.REGISTRY or reference.path.startswith("/")
