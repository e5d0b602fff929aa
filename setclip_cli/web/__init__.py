"""Web pages of this computer: the application with its checks, the server, the style, and what a page shows of rows."""
