"""The way to a server: connections that are kept and tried again, WebSockets, and the bodies of questions."""
