"""Safe files, locks, output folders, downloads and the cache folder, whatever the files hold."""
