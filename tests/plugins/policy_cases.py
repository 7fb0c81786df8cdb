"""What the Lua plugins and the SPANK plugin must agree on about the policy file."""

from __future__ import annotations

BROKEN = [
    ("isolate\n", "line 1"),
    ("images x partition=gpu\n", "line 1"),
    ("\nisolat x\n", "line 2"),
    ("isolate a\nisolate a\n", "line 2"),
    ("isolate a partition=\n", "line 1"),
    ("isolate a partition=x,,y\n", "line 1"),
    ("isolate a partition=x,\n", "line 1"),
    ("isolate a partition=x partition=y\n", "line 1"),
    ("isolate a qos=x\n", "line 1"),
    ("isolate " + "n" * 65 + "\n", "line 1"),
    ("isolate a/b\n", "line 1"),
    ("on-broken maybe\n", "line 1"),
    ("x" * 5000, "line 1"),
    ("images a " + "p " * 70, "line 1"),
    ("a\0b", "NUL"),
    ("isolate a partition=" + ",".join(["p"] * 65), "line 1"),
    ("\n".join(f"isolate r{number}" for number in range(257)), "line 257"),
]
"""Text of a file that is broken, and what its problem mentions."""

RULES = """
# what this site wants
on-broken refuse
images  site-images   partition=gpu registry.site/ml/** /shared/images/*.sqsh
isolate clean-gpu     partition=gpu
isolate guests-clean  account=guests,visitors
"""

IMAGES = [
    ("docker://registry.site#ml/torch:26", True),
    ("registry.site/ml/a/b@sha256:00", True),
    ("me@registry.site#ml/torch", True),
    ("registry.site#ml/torch", True),
    ("registry.site.evil/ml/torch", False),
    ("docker://evil/registry.site/ml/torch", False),
    ("evil/x@registry.site#ml/torch", False),
    ("/shared/images/a.sqsh", True),
    ("/shared/images/sub/a.sqsh", False),
    ("/shared/images/../../tmp/a.sqsh", False),
    ("/shared/images/./a.sqsh", False),
    ("/shared/images//a.sqsh", False),
    ("./a.sqsh", False),
    ("../a.sqsh", False),
    ("/shared/images/a.sqsh\n", False),
    ("/shared/imagesXa.sqsh", False),
    ("/shared/images/a.sqshX", False),
    ("/" * 5000, False),
    ("a" * 5000, False),
    ("%s%n%p", False),
]
"""An image, and whether RULES let it run in partition gpu."""

ISOLATED = [
    ("gpu", "staff", "clean-gpu"),
    ("GPU", "staff", "clean-gpu"),
    ("main,gpu", "", "clean-gpu"),
    ("main", "guests", "guests-clean"),
    ("main", "Visitors", "guests-clean"),
    ("main", "staff", ""),
    ("gp", "guest", ""),
    ("main", "", ""),
]
"""Partition, account, and the rule that wants the job isolated."""
