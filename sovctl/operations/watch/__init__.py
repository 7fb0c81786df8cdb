"""The watch on the controller: what only the site can do for runs, as root or SlurmUser."""
