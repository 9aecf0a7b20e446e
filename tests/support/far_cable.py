"""A cable between two new taps, far_cable.py END END DELAY JITTER LOST: each frame comes out at the other end DELAY ms later, give or
take JITTER (so that frames overtake each other), or with LOST percent never. Says "ready"; when its input ends, how many frames were
carried, lost and overtaken."""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000


def tap(name):
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return end


ends = [tap(name) for name in sys.argv[1:3]]
delay, jitter, lost_percent = map(float, sys.argv[3:6])
chance = random.Random(1)
on_the_way = []  # (when it is due, its number, whether it is for the second end, the frame)
latest = [0, 0]  # the highest number that has come out at each end
carried = lost = overtaken = number = 0
print("ready", flush=True)

while True:
    wait = max(0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
    ready, _, _ = select.select([sys.stdin, *ends], [], [], wait)
    if sys.stdin in ready:
        break
    for side, end in enumerate(ends):
        while end in ready:
            try:
                frame = os.read(end, 65536)
            except BlockingIOError:
                break
            except OSError:  # the end is gone with its namespace
                sys.exit()
            if chance.uniform(0, 100) < lost_percent:
                lost += 1
                continue
            number += 1
            due = time.monotonic() + (delay + chance.uniform(-jitter, jitter)) / 1000
            heapq.heappush(on_the_way, (due, number, 1 - side, frame))
    while on_the_way and on_the_way[0][0] <= time.monotonic():
        _, order, side, frame = heapq.heappop(on_the_way)
        overtaken += order < latest[side]
        latest[side] = max(latest[side], order)
        try:
            os.write(ends[side], frame)
            carried += 1
        except OSError:  # the end is down
            lost += 1

print(carried, lost, overtaken)
