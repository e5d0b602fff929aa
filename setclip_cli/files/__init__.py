"""Files that appear whole or not at all, locks, downloads, the cache folder; nothing of what the files hold."""
