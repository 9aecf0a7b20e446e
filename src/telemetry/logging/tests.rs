use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{Arc, mpsc},
};

use parking_lot::Mutex;
use serde_json::Value;
use tracing::subscriber::with_default;
use tracing_subscriber::fmt::MakeWriter as _;

use super::*;

/// A directory of its own that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("trunkline-log-{name}-{}", std::process::id()));
        let _fresh = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// A sink that keeps what it is given; each write first asks `step` what to do.
struct Kept<F> {
    lines: Arc<Mutex<Vec<u8>>>,
    step: F,
}

impl<F: FnMut() -> io::Result<()> + Send> Sink for Kept<F> {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        (self.step)()?;
        self.lines.lock().extend_from_slice(lines);
        Ok(())
    }
}

fn settings(level: LogLevel, format: LogFormat, file: LogDestination) -> LogSettings {
    LogSettings {
        stun_level: LogLevel::Info,
        level,
        file,
        format,
        max_size_mb: 15,
        rotate: true,
    }
}

/// What the log says of the events in `events`.
fn logged(log: &LogSettings, events: impl FnOnce()) -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Kept {
        lines: Arc::clone(&lines),
        step: || Ok(()),
    };
    let (queue, guard) = LineQueue::start(Box::new(sink), |_| {}).unwrap();
    with_default(subscriber(log, queue, None), events);
    drop(guard);
    let lines = lines.lock().clone();
    String::from_utf8(lines).unwrap()
}

fn nowhere() -> LogDestination {
    LogDestination::Path(PathBuf::from("/dev/null"))
}

#[test]
fn json_is_one_flat_object_a_line() {
    let log = settings(LogLevel::Info, LogFormat::Json, nowhere());
    let text = logged(&log, || {
        let outer = tracing::info_span!("peer", relay.peer.id = "sha-a", client.address = "outer");
        let _outer = outer.enter();
        let inner = tracing::info_span!(
            "handshake",
            client.address = "inner",
            late = tracing::field::Empty
        );
        inner.record("late", 7);
        let _inner = inner.enter();
        let error = io::Error::other("two\nlines");
        tracing::warn!(
            count = 3_u64,
            ratio = 0.5,
            ok = true,
            level = "fake",
            error = &error as &dyn std::error::Error,
            "said \"{}\"",
            "hello\n"
        );
        tracing::info!("plain");
    });
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let object: Value = serde_json::from_str(lines[0]).unwrap();
    let expected: [(&str, Value); 10] = [
        ("level", "WARN".into()),
        ("target", module_path!().into()),
        ("message", "said \"hello\n\"".into()),
        ("count", 3.into()),
        ("ratio", 0.5.into()),
        ("ok", true.into()),
        ("error", "two\nlines".into()),
        ("relay.peer.id", "sha-a".into()),
        ("client.address", "inner".into()),
        ("late", 7.into()),
    ];
    for (name, value) in &expected {
        assert_eq!(object[name], *value, "{name}: {text}");
    }
    let timestamp = object["timestamp"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(timestamp).is_ok(), "{timestamp}");
    assert_eq!(
        object.as_object().unwrap().len(),
        expected.len() + 1,
        "{text}"
    );
    assert!(lines[0].starts_with("{\"timestamp\":"), "{text}");
}

#[test]
fn text_is_one_line_per_event() {
    let log = settings(LogLevel::Info, LogFormat::Text, nowhere());
    let text = logged(&log, || {
        tracing::info!(relay.peer.id = "sha-a", note = %"a\nb\rc", "peer\nconnected");
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.ends_with("b\\rc\n"), "{text}");
    let (time, rest) = text.split_once(' ').unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok(), "{text}");
    let start = format!(
        "INFO {}: peer\\nconnected relay.peer.id=\"sha-a\"",
        module_path!()
    );
    assert!(rest.trim_start().starts_with(&start), "{text}");
    assert!(!text.contains('\u{1b}'), "colours in a file: {text:?}");
}

#[test]
fn syslog_lines_have_no_time_of_their_own() {
    let events = || {
        tracing::info!("up");
        tracing::error!("down");
    };
    let here = module_path!();
    let plain = logged(
        &settings(LogLevel::Info, LogFormat::Syslog, nowhere()),
        events,
    );
    assert_eq!(plain, format!("INFO {here}: up\nERROR {here}: down\n"));
    let header = |priority| format!("<{priority}>trunkline[{}]: ", std::process::id());
    let sent = logged(
        &settings(LogLevel::Info, LogFormat::Text, LogDestination::Syslog),
        events,
    );
    assert_eq!(
        sent,
        format!(
            "{}INFO {here}: up\n{}ERROR {here}: down\n",
            header(30),
            header(27)
        )
    );
    let json = logged(
        &settings(LogLevel::Info, LogFormat::Json, LogDestination::Syslog),
        events,
    );
    assert!(
        json.starts_with(&format!("{}{{\"timestamp\"", header(30))),
        "{json}"
    );
}

#[test]
fn the_level_is_for_our_own_events() {
    let said = |level| {
        let log = settings(level, LogFormat::Syslog, nowhere());
        let text = logged(&log, || {
            tracing::trace!("own trace");
            tracing::debug!("own debug");
            tracing::info!("own info");
            tracing::warn!("own warn");
            tracing::error!("own error");
            tracing::info!(target: "hyper", "info of others");
            tracing::warn!(target: "hyper", "warn of others");
            tracing::error!(target: "hyper", "error of others");
        });
        text.lines()
            .map(|line| line.split_once(": ").unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    let all = [
        "own trace",
        "own debug",
        "own info",
        "own warn",
        "own error",
        "warn of others",
        "error of others",
    ];
    assert_eq!(said(LogLevel::Trace), all);
    assert_eq!(said(LogLevel::Debug), all[1..]);
    assert_eq!(said(LogLevel::Info), all[2..]);
    assert_eq!(said(LogLevel::Warn), all[3..]);
    assert_eq!(said(LogLevel::Error), ["own error", "error of others"]);
}

fn push(queue: &LineQueue, line: &str) {
    use std::io::Write as _;
    queue.make_writer().write_all(line.as_bytes()).unwrap();
}

#[test]
fn a_stuck_destination_blocks_nobody_and_the_loss_is_told() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (entered, stuck) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let sink = Kept {
        lines: Arc::clone(&lines),
        step: move || {
            entered.send(()).unwrap();
            // Once the test lets go of the gate, everything passes.
            let _open = gate.recv();
            Ok(())
        },
    };
    let (tell, told) = mpsc::channel();
    let (queue, guard) =
        LineQueue::start(Box::new(sink), move |lost| tell.send(lost).unwrap()).unwrap();
    push(&queue, "first\n");
    stuck.recv().unwrap();
    // The writer thread holds the first line and is stuck: 2,000 lines of 1,000 bytes do not fit into the queue.
    let line = format!("{}\n", "x".repeat(999));
    for _ in 0..2000 {
        push(&queue, &line);
    }
    drop(go_on);
    let lost = told.recv().unwrap();
    drop(guard);
    let lines = String::from_utf8(lines.lock().clone()).unwrap();
    assert_eq!(lost, 2000 - 1048, "1 MiB holds 1048 such lines");
    assert_eq!(lines.lines().count(), 1 + 1048);
    assert!(told.recv().is_err(), "it is told once");
}

#[test]
fn a_failing_destination_is_tried_again() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (answers, next) = mpsc::channel::<io::Result<()>>();
    let (asked, asking) = mpsc::channel();
    let sink = Kept {
        lines: Arc::clone(&lines),
        step: move || {
            asked.send(()).unwrap();
            next.recv().unwrap()
        },
    };
    let (tell, told) = mpsc::channel();
    let (queue, guard) =
        LineQueue::start(Box::new(sink), move |lost| tell.send(lost).unwrap()).unwrap();
    push(&queue, "lost");
    asking.recv().unwrap();
    answers.send(Err(io::Error::other("disk full"))).unwrap();
    push(&queue, "kept");
    answers.send(Ok(())).unwrap();
    assert_eq!(told.recv().unwrap(), 1);
    drop(guard);
    assert_eq!(*lines.lock(), b"kept\n");
}

#[test]
fn the_end_does_not_wait_for_a_destination_that_hangs() {
    let (_never, gate) = mpsc::channel::<()>();
    let (entered, stuck) = mpsc::channel();
    let sink = Kept {
        lines: Arc::default(),
        step: move || {
            entered.send(()).unwrap();
            gate.recv().map_err(io::Error::other)
        },
    };
    let (queue, guard) = LineQueue::start(Box::new(sink), |_| {}).unwrap();
    push(&queue, "held");
    stuck.recv().unwrap();
    // Returns, although `_never` is still there and the writer thread hangs on it.
    drop(guard);
}

fn file_log(path: PathBuf, rotate: bool) -> LogSettings {
    LogSettings {
        max_size_mb: 1,
        rotate,
        ..settings(LogLevel::Info, LogFormat::Text, LogDestination::Path(path))
    }
}

/// Writes `count` lines of 1 KiB each, numbered, one write a line.
fn write_numbered(sink: &mut dyn Sink, numbers: std::ops::Range<u32>) {
    for number in numbers {
        sink.write(format!("{number:0>1023}\n").as_bytes()).unwrap();
    }
}

#[test]
fn a_file_is_set_aside_by_size_and_ten_old_ones_are_kept() {
    let dir = Dir::new("rotation");
    let path = dir.0.join("relay.log");
    let mut sink = open(&file_log(path.clone(), true)).unwrap();
    // 1,024 lines fill a file: 13 files and a half.
    write_numbered(&mut *sink, 0..13 * 1024 + 512);
    let mut expected: Vec<String> = (1..=10).map(|old| format!("relay.log.{old}")).collect();
    expected.push("relay.log".to_owned());
    expected.sort();
    assert_eq!(dir.names(), expected);
    let first = |name: &str| -> u32 {
        let text = read(&dir.0.join(name));
        text.lines().next().unwrap().parse().unwrap()
    };
    assert_eq!(first("relay.log"), 13 * 1024);
    for old in 1..=10 {
        let name = format!("relay.log.{old}");
        assert_eq!(fs::metadata(dir.0.join(&name)).unwrap().len(), 1 << 20);
        assert_eq!(first(&name), (13 - old) * 1024);
    }
    // A restart goes on where the file ends.
    let mut sink = open(&file_log(path.clone(), true)).unwrap();
    write_numbered(&mut *sink, 0..1);
    assert_eq!(read(&path).lines().count(), 513);
}

#[test]
fn a_batch_is_split_between_files_at_line_ends() {
    let dir = Dir::new("batch");
    let path = dir.0.join("relay.log");
    let mut sink = RotatingFile::open(path.clone(), Some(10)).unwrap();
    sink.write(b"1234\n5678\nabcd\nlonger than a whole file\nz\n")
        .unwrap();
    let old = |number| read(&dir.0.join(format!("relay.log.{number}")));
    assert_eq!(
        [read(&path), old(1), old(2), old(3)],
        [
            "z\n",
            "longer than a whole file\n",
            "abcd\n",
            "1234\n5678\n"
        ]
    );
}

#[test]
fn without_rotation_a_file_grows_and_may_be_moved_away() {
    let dir = Dir::new("grow");
    let path = dir.0.join("relay.log");
    let mut sink = open(&file_log(path.clone(), false)).unwrap();
    write_numbered(&mut *sink, 0..1500);
    assert_eq!(dir.names(), ["relay.log"]);
    assert_eq!(read(&path).lines().count(), 1500);
    fs::rename(&path, dir.0.join("moved")).unwrap();
    sink.write(b"after\n").unwrap();
    assert_eq!(read(&path), "after\n");
    fs::remove_file(&path).unwrap();
    sink.write(b"again\n").unwrap();
    assert_eq!(read(&path), "again\n");
}

#[test]
fn a_file_that_cannot_be_set_aside_grows() {
    let dir = Dir::new("stuck");
    let path = dir.0.join("relay.log");
    fs::write(dir.0.join("relay.log.9"), "old").unwrap();
    fs::create_dir_all(dir.0.join("relay.log.10/in-the-way")).unwrap();
    let mut sink = RotatingFile::open(path.clone(), Some(4)).unwrap();
    sink.write(b"one\ntwo\nthree\n").unwrap();
    assert_eq!(read(&path), "one\ntwo\nthree\n");
}

#[test]
fn a_device_is_never_set_aside() {
    let mut sink = RotatingFile::open(PathBuf::from("/dev/null"), Some(4)).unwrap();
    sink.write(b"one\ntwo\nthree\n").unwrap();
    assert!(fs::metadata("/dev/null.1").is_err());
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let path = PathBuf::from("/dev/null/relay.log");
    let Err(error) = open(&file_log(path, true)) else {
        panic!("opened");
    };
    assert_eq!(
        error.to_string(),
        "--log-file: /dev/null/relay.log cannot be opened for writing: Not a directory (os error 20)"
    );
}

#[test]
fn syslog_gets_a_datagram_a_line_and_may_be_restarted() {
    let dir = Dir::new("syslog");
    let path = dir.0.join("log");
    let name = path.to_str().unwrap();
    let missing = dir.0.join("missing");
    let missing = missing.to_str().unwrap();
    let Err(error) = Syslog::connect(&[missing]) else {
        panic!("connected");
    };
    let expected = format!(
        "--log-file: this machine has no syslog socket ({missing}); give console or a path"
    );
    assert_eq!(error.to_string(), expected);

    let daemon = UnixDatagram::bind(&path).unwrap();
    let mut sink = Syslog::connect(&[missing, name]).unwrap();
    let mut buffer = [0; 64];
    sink.write(b"<30>one\n<30>two\n").unwrap();
    for expected in ["<30>one", "<30>two"] {
        let len = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], expected.as_bytes());
    }
    drop(daemon);
    fs::remove_file(&path).unwrap();
    // A program that another test is just starting has the daemon's socket, too, until its `exec`.
    while sink.write(b"lost\n").is_ok() {
        std::thread::yield_now();
    }
    let daemon = UnixDatagram::bind(&path).unwrap();
    sink.write(b"three\n").unwrap();
    let len = daemon.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"three");
}
