#!/bin/sh
# Says what the files beside it hold.
cd "$(dirname "$0")" && echo "$(cat greeting.txt), $(cat whom.txt)!"
