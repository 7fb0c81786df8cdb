"""The image of a run: fetched before each attempt, always the same bytes, and around every step of the script."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.isolation.inside import BY_VARIABLES, OCI, PLUGIN_OPTION, SPANK, Inside, variables
from sovctl.isolation.oci import bundle_config

if TYPE_CHECKING:
    from sovctl.ports.images import Bundles

SRUN = r"""#!/bin/sh
# Stands before Slurm's srun in the PATH of a script whose run has an image: puts `sovctl exec` before the command.
here=${0%/*}
exec @SOVCTL@ step "$here" @WORDS@ -- "$@"
"""


@dataclass(frozen=True, slots=True)
class ImagePlaces:
    """What is needed of the outside."""

    fetch: Callable[[Inside, str], tuple[str, str]]
    """Path and digest of the image of a run directory, loaded now if it was not. Raises SovctlError."""
    put_before: Callable[[int, str, str], str]
    """Write a program for the front of an attempt's PATH; returns its directory. Raises RunDirUnusable."""
    bundles: Bundles
    srun_offers: Callable[[str], bool] = lambda _option: True
    """Whether srun here knows an option."""
    check_owner: Callable[[str], None] = lambda _path: None
    """Raises RefusedError where the SPANK plugin would not mount this image."""
    nodes_outside: Callable[[str], tuple[str, ...]] = lambda _runtime: ()
    """Nodes of the job where Slurm would run its steps outside of the image of this runtime."""
    user: tuple[int, int] = (0, 0)
    """User and group id."""


class RunImage:
    """Of one run with one image."""

    def __init__(self, inside: Inside, run_dir: str, sovctl: Sequence[str], places: ImagePlaces) -> None:
        """`sovctl`: the words that start sovctl on any node."""
        self._inside = inside
        self._run_dir = run_dir
        self._sovctl = tuple(sovctl)
        self._places = places
        self._path = ""

    def prepare(self) -> str:
        """Have the image where its runtime finds it; returns its digest. Raises SovctlError."""
        self._check_plugin()
        self._check_nodes()
        if not self._inside.image:
            return ""
        self._path, digest = self._places.fetch(self._inside, self._run_dir)
        if self._inside.runtime == SPANK:
            self._places.check_owner(self._path)
        return digest

    def enter(
        self, argv: Sequence[str], env: Mapping[str, str], attempt: int
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """How the script is started, so that it or its steps are inside."""
        inside = self._inside
        if inside.runtime in BY_VARIABLES:
            return argv, {**env, **self._variables(env)}
        words = inside.exec_words()
        if inside.whole_script:
            return [*self._sovctl, "exec", *words, "--", *argv], env
        text = SRUN.replace("@SOVCTL@", shlex.join(self._sovctl)).replace("@WORDS@", shlex.join(words))
        front = self._places.put_before(attempt, "srun", text)
        before = env.get("PATH", "").split(":")
        return argv, {**env, "PATH": ":".join([front, *(part for part in before if part not in ("", front))])}

    def _check_plugin(self) -> None:
        option = PLUGIN_OPTION.get(self._inside.runtime)
        if option and not self._places.srun_offers(option):
            raise SovctlError(
                f"srun knows no {option} here: the plugin of the runtime {self._inside.runtime} is not loaded",
                hint="See plugstack.conf, or use --runtime bubblewrap.",
            )

    def _check_nodes(self) -> None:
        runtime = self._inside.runtime
        outside = self._places.nodes_outside(runtime) if runtime in BY_VARIABLES else ()
        if outside:
            what = "oci.conf" if runtime == OCI else f"the plugin of the runtime {runtime}"
            some = f"{', '.join(outside[:8])}{' and more' if len(outside) > 8 else ''}"
            raise SovctlError(
                f"{what} is missing on {some}: Slurm would run the steps there outside of the image without a word",
                hint=f"Leave them out, sovctl submit --exclude={','.join(outside)}, or use --runtime bubblewrap.",
            )

    def _variables(self, env: Mapping[str, str]) -> Mapping[str, str]:
        own = [env[name] for name in ("SOVCTL_RUN_DIR", "SOVCTL_CHECKPOINT_DIR") if env.get(name)]
        own = [path for path in own if self._places.bundles.is_directory(path)]
        path = self._path
        if self._inside.runtime == OCI:
            config = bundle_config(self._inside, own, self._places.user, env.get("HOME", ""))
            path = self._places.bundles.make(self._run_dir, path, config)
        if self._inside.image and not path:
            raise SovctlError("the image of the run is not there", hint="See: sovctl run events")
        return variables(self._inside, path, own)
