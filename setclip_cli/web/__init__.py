"""Web pages that only this computer can open: the application with its checks, the server, and the style of pages."""
