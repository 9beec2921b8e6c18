"""Layers and metadata on disk, and the only room with SQL.

    meta.db          SQLite in WAL mode; every state change is one transaction
    layers/ID/fs     a layer's tree; the same path before and after sealing
    layers/ID/work   its workdir while it is an upper
    layers/ID/layer.json   what the layer is, should the database be lost
    staging/         what is being built or deleted; swept at start
    ballast          space for the database on a full disk
    lost+found/      what was found in layers/ and nobody knows

It mounts nothing and decides nothing: the order of steps belongs to `environment`.
"""
