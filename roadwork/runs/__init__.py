"""The run folder: files, manifest, names, lock, listing."""
