"""Tar and zip: an archive becomes a tree beneath one directory, and nothing else.

`stream` has the bytes, decompressed; `tar` and `zipped` make members of them; `writer` makes what a
member says, in the directories of `tree`, beneath its root whatever the member's name may be;
`reading` knows the limits and what is said of a member that is at fault. Which members an archive
may bring is said in `unpack`; a layer of an image, whose whiteouts mean something, goes from
`formats.members` to a `Writer` by a way of its own.
"""
