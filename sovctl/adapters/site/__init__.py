"""Other machines and the site's own files: SSH, BMCs, installs, the cluster journal, messages."""
