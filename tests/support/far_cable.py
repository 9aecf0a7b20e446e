"""A cable between two new taps, far_cable.py END END DELAY JITTER LOST: each frame comes out at the other end DELAY ms later, give or
take JITTER (so that frames overtake each other), or with LOST percent never. Says "ready"; when its input ends, a line for what went from
the first end to the second, and one for the way back: frames carried, lost, overtaken by a later one, and the shortest time on the way in ms."""

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

# What is beyond so many frames on the way is lost, as in a full queue.
QUEUE = 10_000


class Way:
    """One direction."""

    def __init__(self, source, target, seed):
        self.source, self.target = source, target
        self.chance = random.Random(seed)
        self.queue = []  # (when a frame is due, its number, when it came, the frame)
        self.carried = self.lost = self.overtaken = self.number = self.latest = 0
        self.shortest = float("inf")

    def take(self, now):
        try:
            frame = os.read(self.source, 65536)
        except BlockingIOError:
            return
        except OSError:  # the end is gone with its namespace
            sys.exit()
        if self.chance.uniform(0, 100) < lost_percent or len(self.queue) >= QUEUE:
            self.lost += 1
            return
        self.number += 1
        due = now + (delay + self.chance.uniform(-jitter, jitter)) / 1000
        heapq.heappush(self.queue, (due, self.number, now, frame))

    def give(self, now):
        _, number, came, frame = heapq.heappop(self.queue)
        try:
            os.write(self.target, frame)
        except OSError:  # that end is down
            return
        self.carried += 1
        self.overtaken += number < self.latest
        self.latest = max(self.latest, number)
        self.shortest = min(self.shortest, now - came)


def tap(name):
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return end


ends = [tap(name) for name in sys.argv[1:3]]
delay, jitter, lost_percent = map(float, sys.argv[3:6])
ways = [Way(ends[0], ends[1], sys.argv[1]), Way(ends[1], ends[0], sys.argv[2])]
print("ready", flush=True)

while True:
    due = min((way.queue[0][0] for way in ways if way.queue), default=None)
    wait = None if due is None else max(0, due - time.monotonic())
    ready, _, _ = select.select([sys.stdin, *ends], [], [], wait)
    if sys.stdin in ready:
        break
    for way in ways:
        if way.source in ready:
            way.take(time.monotonic())
        while way.queue and way.queue[0][0] <= time.monotonic():
            way.give(time.monotonic())

for way in ways:
    shortest = 0 if way.carried == 0 else int(way.shortest * 1000)
    print(way.carried, way.lost, way.overtaken, shortest)
