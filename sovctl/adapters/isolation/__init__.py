"""Images, namespaces and what an isolated step is made of."""
