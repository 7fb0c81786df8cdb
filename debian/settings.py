"""Prints the sovctl.toml of the package."""

import inspect

from sovctl import config
from sovctl.site.settings_file import settings_file

print(settings_file(config.Config(), inspect.getsource(config)), end="")
