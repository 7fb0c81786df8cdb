"""A node that looks at itself: the check, the watcher, prolog and epilog, burn-in."""
