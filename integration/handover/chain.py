"""The third in the chain: see chain."""
import os

line = b""
while c := os.read(0, 1):
    line += c
    if c == b"\n":
        break
while line:
    line = line[os.write(1, line):]
os.execv("/bin/cat", ["cat"])
