"""overlayfs: its marks on disk, what a chain of layers shows, differences, copies, mounts."""
