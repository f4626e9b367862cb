#!/usr/bin/env python3
"""Cuts the power of one file system: power-cut.py DIRECTORY

The file system that DIRECTORY is on (ext4, xfs or f2fs; a loop image, never one that anybody needs) is shut down by
FS_IOC_SHUTDOWN without a flush of its log: every page and every journal record that was not forced to the device is
gone, as after a power cut. Everything on it fails with EIO from then on; unmount it and mount it again, which replays
the journal, as the boot after a power cut does. Root only.
"""
import fcntl
import os
import struct
import sys

FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32): the same on ext4, xfs and f2fs
NO_LOG_FLUSH = 2

if len(sys.argv) != 2:
    sys.exit(__doc__)
directory = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
if os.fstat(directory).st_dev == os.stat("/").st_dev:
    sys.exit("power-cut: this is the root file system")
fcntl.ioctl(directory, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
