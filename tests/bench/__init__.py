"""Figures, printed as ratios against the kernel's own cost in the same run; never asserted."""
