"""`sovctl image`: what an image's name means now, and the cache of images."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.tables import Column, print_listing
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import age, clock_time, printable, say
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, UsageError
from sovctl.isolation.reference import parse_reference
from sovctl.model.byte_size import size_words
from sovctl.model.image import CachedImage, ImageReference
from sovctl.operations.isolation import images
from sovctl.operations.isolation.exec_step import ExecOptions, ExecPlace, StepRunner

app = typer.Typer(
    help="Images: resolve a name to a digest, load images once for all nodes, clean the cache.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
env_app = typer.Typer(
    help="Named layers over images: ls, rm, export.\n\nExample: sovctl image env ls",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(env_app, name="env")

Reference = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="REGISTRY/NAME:TAG, REGISTRY#NAME:TAG, docker://, oci:DIR, or a path."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ListFormat = Annotated[
    str, typer.Option("-o", "--format", metavar="FORMAT", help="Fields to show: '%.12d %i', or names: image,size.")
]
LayerFormat = Annotated[
    str, typer.Option("-o", "--format", metavar="FORMAT", help="Fields to show: '%.12n %i', or names: name,size.")
]
NoHeader = Annotated[bool, typer.Option("-n", "--noheader", help="No line of headers.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def run(argv: Sequence[str]) -> int:
    """Run `sovctl image ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl image")


@app.command("ls")
def list_(fmt: ListFormat = "", noheader: NoHeader = False, as_json: Json = False) -> int:
    """List the images of the cache, least recently used last.

    With -o: %d digest, %D full_digest, %z size, %b bytes, %a used, %S used_at, %u in_use, %i image, %p path; or these
    names with commas between, such as -o image,size.

    Example: sovctl image ls
    """
    ports = wiring.image_ports(load_config())
    found = sorted(ports.cache.entries(), key=lambda image: -image.used_at)
    if as_json:
        _print_json({"cache": ports.cache.where(), "images": [_record(image) for image in found]})
    elif found:
        print_listing(found, _COLUMNS, "dzaui", fmt, header=not noheader)
    else:
        say(f"There are no images in {ports.cache.where()}.")
    return EXIT_DONE


@app.command()
def resolve(image: Reference, as_json: Json = False) -> int:
    """Print the digest that an image's name means now.

    Example: sovctl image resolve registry.example/team/train:2.4
    """
    config = load_config()
    with progress(f"asking for {image}"):
        found = images.resolve(_reference(image), wiring.image_ports(config), config.isolation.allow_images.split())
    if as_json:
        _print_json(
            {"reference": found.reference.canonical, "kind": found.reference.kind.value, "digest": found.digest or None}
        )
    elif found.digest:
        print(found.digest)
    else:
        say(f"{found.reference.canonical} is a directory: nothing fixes its content.")
    return EXIT_DONE


@app.command()
def prefetch(image: Reference, as_json: Json = False, dry_run: DryRun = False) -> int:
    """Load an image into the cache, so that no job waits for it.

    Example: sovctl image prefetch registry.example/team/train:2.4
    """
    config = load_config()
    ports = wiring.image_ports(config)
    with progress(f"asking for {image}"):
        resolved = images.resolve(_reference(image), ports, config.isolation.allow_images.split())
    if dry_run:
        there = ports.cache.find(resolved.digest) if resolved.digest else None
        words = "is in the cache" if there else f"would be loaded into {ports.cache.where()}"
        print(f"{printable(resolved.digest or resolved.reference.canonical)} {printable(words)}")
        return EXIT_DONE
    with progress(f"loading {image}") as waiting:
        got = images.prefetch(resolved, ports, waiting.beside(_say))
    if as_json:
        _print_json({"cache": ports.cache.where(), "images": [_record(got)]})
    else:
        print(printable(got.path))
    return EXIT_DONE


@app.command()
def gc(
    keep: Annotated[str, typer.Option("--keep", metavar="SIZE", help="So much may stay, such as 200G.")] = "0",
    unused: Annotated[float, typer.Option("--unused-days", metavar="DAYS", help="Spare what was used since.")] = 0.0,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    """Remove the least recently used images, and what broken pulls left; never one that a step uses.

    Example: sovctl image gc --keep 200G --unused-days 7
    """
    ports = wiring.image_ports(load_config())
    keep_bytes = _bytes(keep)
    with progress("removing images"):
        done = images.clean(ports, keep_bytes=keep_bytes, unused_s=unused * 86400, act=not dry_run)
    chosen = done.plan.remove if dry_run else done.removed
    freed = sum(image.size_bytes for image in chosen)
    if as_json:
        fields = {"removed": [_record(image) for image in chosen], "leftovers": list(done.leftovers)}
        _print_json({"cache": ports.cache.where(), "dry_run": dry_run, "freed_bytes": freed, **fields})
        return EXIT_DONE
    verb = "would remove" if dry_run else "removed"
    for path in [*(image.path for image in chosen), *done.leftovers]:
        print(f"{verb} {printable(path)}")
    say(f"{verb} {len(chosen)} images, {size_words(freed)}")
    if stay := len(done.plan.remove) - len(chosen):
        say(f"{stay} stay: somebody else's, or in use by now")
    return EXIT_DONE


@env_app.command("ls")
def env_ls(fmt: LayerFormat = "", noheader: NoHeader = False, as_json: Json = False) -> int:
    """List your named layers.

    With -o: %n name, %z size, %b bytes, %u in_use, %i image; or these names with commas between, such as -o name,size.

    Example: sovctl image env ls
    """
    found = wiring.env_layers(load_config()).entries()
    if as_json:
        _print_json({"environments": [asdict(layer) for layer in found]})
        return EXIT_DONE
    print_listing(found, _LAYER_COLUMNS, "nzui", fmt, header=not noheader)
    if not found:
        say("There are no named layers of yours; `sovctl exec --image IMAGE --env-name NAME -- COMMAND` makes one.")
    return EXIT_DONE


@env_app.command("rm")
def env_rm(name: Annotated[str, typer.Argument(metavar="NAME")], dry_run: DryRun = False) -> int:
    """Remove a named layer and all that was written into it.

    Example: sovctl image env rm tools
    """
    layers = wiring.env_layers(load_config())
    if dry_run:
        print(f"would remove {printable(name)} over {printable(layers.below(name)[1])}")
        return EXIT_DONE
    layers.remove(name)
    return EXIT_DONE


@env_app.command("export")
def env_export(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    target: Annotated[Path, typer.Argument(metavar="FILE.sqsh", help="A new file.")],
    dry_run: DryRun = False,
) -> int:
    """Write the image with its layer as one squashfs, for --image.

    Example: sovctl image env export tools ./tools.sqsh
    """
    config = load_config()
    base, image = wiring.env_layers(config).below(name)
    if target.exists() or target.suffix != ".sqsh":
        raise UsageError(
            f"{target} is there already, or has another ending than .sqsh",
            hint=f"Name a new file: sovctl image env export {name} FILE.sqsh",
        )
    if dry_run:
        print(f"would write {printable(image)} with {printable(name)} to {printable(str(target))}")
        return EXIT_DONE
    place = ExecPlace({}, str(Path.cwd()), "export")
    options = ExecOptions(("true",), image, env_name=name)
    settings, ports = wiring.exec_settings(config), wiring.exec_ports(config)
    StepRunner(options, settings, place, ports, _say).export(str(target.absolute()), base)
    print(printable(str(target)))
    return EXIT_DONE


def _say(words: str) -> None:
    say(f"sovctl: {words}")


def _reference(text: str) -> ImageReference:
    return parse_reference(text, str(Path.cwd()))


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if not found:
        raise UsageError(f"--keep {text!r} is not a size", hint="Write it as in --keep 500M, 200G or 1.5T.")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _record(image: CachedImage) -> dict[str, object]:
    return {
        "digest": image.digest,
        "reference": image.reference,
        "path": image.path,
        "size_bytes": image.size_bytes,
        "used_at": image.used_at,
        "in_use": image.in_use,
    }


def _print_json(fields: dict[str, object]) -> None:
    print_json(images.SCHEMA, fields)


_COLUMNS = (
    Column("d", "digest", "DIGEST", lambda image: image.digest.removeprefix("sha256:")[:12]),
    Column("D", "full_digest", "DIGEST", lambda image: image.digest),
    Column("z", "size", "SIZE", lambda image: size_words(image.size_bytes)),
    Column("b", "bytes", "BYTES", lambda image: str(image.size_bytes), right=True),
    Column("a", "used", "USED", lambda image: age(time.time() - image.used_at)),
    Column("S", "used_at", "LAST USED", lambda image: clock_time(image.used_at)),
    Column("u", "in_use", "IN USE", lambda image: "yes" if image.in_use else "-"),
    Column("i", "image", "IMAGE", lambda image: image.reference, folded=True),
    Column("p", "path", "PATH", lambda image: image.path, folded=True),
)
_LAYER_COLUMNS = (
    Column("n", "name", "NAME", lambda layer: layer.name),
    Column("z", "size", "SIZE", lambda layer: size_words(layer.size_bytes)),
    Column("b", "bytes", "BYTES", lambda layer: str(layer.size_bytes), right=True),
    Column("u", "in_use", "IN USE", lambda layer: "yes" if layer.in_use else "-"),
    Column("i", "image", "IMAGE", lambda layer: layer.reference, folded=True),
)
