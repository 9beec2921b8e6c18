"""What the kernel is asked and told: system calls, the mount table, who holds a tree."""
