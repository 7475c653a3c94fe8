"""python convert_pecore.py --size B16: the `convert` verb of the `pecore` command."""

import sys

from pecore.cli import main

main(["convert", *sys.argv[1:]])
