"""The way to a server: connections that are kept and tried again, what stands in it, bodies of questions."""
