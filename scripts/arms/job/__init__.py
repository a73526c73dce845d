"""What every program is made of: its command line, files, manifest, progress that survives, processes."""
