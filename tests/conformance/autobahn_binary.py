# Python 2.7. The Autobahn suite's client with every text message sent, and awaited, as a binary one, so that its cases
# reach a server that takes no text. Arguments as for wstest. docs/conformance.md says how it is run.
import sys

from autobahntestsuite import fuzzing
from autobahntestsuite.case.case import Case
from autobahntestsuite.wstest import run

TEXT, BINARY = 1, 2
Client = fuzzing.FuzzingClientProtocol
send_frame, send_message, on_message = Client.sendFrame, Client.sendMessage, Client.onMessage


def send_frame_as_binary(self, opcode, *args, **kwargs):
    return send_frame(self, BINARY if opcode == TEXT else opcode, *args, **kwargs)


def send_message_as_binary(self, payload, isBinary=False, *args, **kwargs):
    return send_message(self, payload, True, *args, **kwargs)


def on_message_as_text(self, payload, isBinary):
    # These cases look at the flag themselves; all others leave it to `compare`.
    expects_text = type(getattr(self, "runCase", None)).__name__.startswith("Case9_7_")
    return on_message(self, payload, isBinary and not expects_text)


def compare_without_flag(self, received, expected):
    return [event[:2] for event in received] == [event[:2] for event in expected]


Client.sendFrame = send_frame_as_binary
Client.sendMessage = send_message_as_binary
Client.onMessage = on_message_as_text
Case.compare = compare_without_flag
sys.exit(run())
