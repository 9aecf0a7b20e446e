//! Black box: the demo of the real binary, as a newcomer runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command
        .env_clear()
        .arg("demo")
        .args(args)
        .stdin(Stdio::null());
    command
}

#[test]
fn everything_happens_as_it_should_and_it_ends_by_itself() {
    let output = demo(&[]).output().expect("the binary runs");
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "",
        "nothing went wrong unseen"
    );
    assert_eq!(output.status.code(), Some(0), "{told}");
    for line in [
        "  ok      alice connected in ",
        "  ok      bob connected in ",
        "  ok      mallory was refused: a token signed with another secret gets no answer",
        "  ok      mallory was refused: a token that expired a minute ago gets no answer",
        "  ok      alice subscribed to bob and carol, and was told at once that bob is online",
        "  ok      carol connected; alice was told within ",
        "  ok      carol left; alice was told",
        "  ok      1280 random bytes went from alice to bob unchanged, marked as from alice",
        " round trips alice - bob - alice: min ",
        "  ok      4 pairs sent for ",
        " a second, all in order, none lost",
        "  ok      a message to a peer that is not there was dropped, and counted as no_such_peer",
        "  ok      bob connected again: the newer connection took over",
        "  ok      bob's connection broke off; alice was told within ",
        "  ok      the relay's account: ",
        "  ok      pods 1, 2 and 3 started, and each had a stream to both others after ",
        "  ok      erin connected to pod 1, frank to pod 2; the first message between them took ",
        " round trips erin - frank - erin, over two pods: min ",
        "  ok      erin subscribed to frank on pod 2 and grace on pod 3, and was told within ",
        "  ok      frank moved to pod 3: erin's messages followed within ",
        " none came twice, frank never went offline",
        "  ok      pod 3 was drained: frank and grace were told, and on other pods after ",
        "; erin saw neither go offline",
        "  ok      pod 3 started again, and after ",
        "  ok      pod 2 was killed: erin on pod 1 and heidi on pod 3 still met, and were told after ",
        "  ok      the relay told dave to close and was gone in ",
        "\nSummary: all 23 checks as expected, in ",
    ] {
        assert!(told.contains(line), "{line:?} is missing in\n{told}");
    }
    assert!(!told.contains("FAILED"), "{told}");
}

/// A demo that is killed when the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn with_keep_the_relay_goes_on_until_a_signal() {
    let mut running = Running(
        demo(&["--keep"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs"),
    );
    let mut told = BufReader::new(running.0.stdout.take().expect("stdout is a pipe"));
    let mut line_with = |part: &str| {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let length = told.read_line(&mut line).expect("UTF-8");
            assert_ne!(length, 0, "the demo ended before it said {part:?}");
        }
        line
    };
    line_with("Summary: all 22 checks as expected, in ");
    let load = line_with(" load --address 127.0.0.1:");
    assert!(load.contains(" --secret "), "{load}");
    let metrics = line_with("/metrics");
    let address = metrics
        .trim()
        .strip_prefix("curl http://")
        .and_then(|rest| rest.strip_suffix("/metrics"))
        .expect("an address");
    let mut page = String::new();
    let mut stream = TcpStream::connect(address).expect("metrics are served");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
        .expect("asks");
    stream.read_to_string(&mut page).expect("is answered");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("relay_messages_total{"), "{page}");

    line_with("/readyz");
    // The last line of the invitation, before which the signal is caught already.
    line_with("Clients connect to ws://127.0.0.1:");
    let kill = Command::new("kill")
        .args(["-INT", &running.0.id().to_string()])
        .status();
    assert!(kill.expect("kill runs").success());
    line_with("The relay has stopped.");
    let status = running.0.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}
