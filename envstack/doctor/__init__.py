"""What this machine can do for envstack, found out by trying: `envstack doctor`.

    check         a finding as a value
    child         trials in a forked process, in namespaces of their own
    kernel        the mount calls that envstack is made of, and user namespaces
    home          the file system of the store
    limits        root, inotify, open files
    freezing      how commands are made to stand still for a checkpoint
    peers         programs and the daemon
    examination   all of it, in the order in which it is shown

It changes nothing, starts no daemon and leaves nothing behind. It forks, so it is for the command
line alone and must never be used in the daemon.
"""
