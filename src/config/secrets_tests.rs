use std::{fs, io, os::unix::fs::symlink, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};
use tracing::instrument::WithSubscriber as _;

use super::*;

/// A directory of its own that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("trunkline-secrets-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join("secrets");
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn secrets(texts: &[&str]) -> Vec<SecretText> {
    texts.iter().copied().map(SecretText::new).collect()
}

#[test]
fn a_file_holds_one_secret_a_line() {
    let dir = Dir::new("lines");
    let read = |content: &str| read_secrets(&dir.file(content)).unwrap();
    assert_eq!(read("one"), secrets(&["one"]));
    assert_eq!(
        read("\r\n  two \t\r\n\none\ntwo\n"),
        secrets(&["two", "one"])
    );
    assert_eq!(
        read("# not a comment\na b"),
        secrets(&["# not a comment", "a b"])
    );
    assert_eq!(read(&"x".repeat(65_536)), secrets(&[&"x".repeat(65_536)]));
}

#[test]
fn a_useless_file_is_named_with_the_reason_and_without_content() {
    let dir = Dir::new("useless");
    let path = dir.0.join("secrets");
    for (content, reason) in [
        (b"".to_vec(), "holds no secret"),
        (b" \r\n\n".to_vec(), "holds no secret"),
        (b"hunter\xff2".to_vec(), "is not UTF-8 text"),
        (
            vec![b'x'; 65_537],
            "cannot be read: it is larger than 64 KiB",
        ),
    ] {
        let error = read_secrets(&dir.file(content)).unwrap_err();
        assert_eq!(error.to_string(), format!("{} {reason}", path.display()));
        assert!(!format!("{error:?}").contains("hunter"));
    }
    let error = read_secrets(&dir.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} cannot be read: it is not a file", dir.0.display())
    );
    fs::remove_file(&path).unwrap();
    let error = read_secrets(&path).unwrap_err();
    assert!(
        error.to_string().contains("cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn debug_prints_nothing_of_a_secret() {
    assert_eq!(
        format!("{:?}", SecretText::new("hunter2")),
        "SecretText(..)"
    );
}

/// What was logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// Starts a watch that knows `one`, and hands on what it finds and what it logs.
fn watch(path: PathBuf) -> (mpsc::UnboundedReceiver<Vec<SecretText>>, Log) {
    let (found, changes) = mpsc::unbounded_channel();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let watch = watch_secrets(
        path,
        secrets(&["one"]),
        SECRET_POLL_INTERVAL,
        Reload::never(),
        move |secrets| {
            found.send(secrets).unwrap();
        },
    );
    tokio::spawn(watch.with_subscriber(subscriber));
    (changes, log)
}

/// Many polls, on a paused clock.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_change_is_seen_once_and_logged_with_the_number() {
    let dir = Dir::new("change");
    let path = dir.file("one\n");
    let (mut changes, log) = watch(path.clone());
    assert!(
        timeout(LONG, changes.recv()).await.is_err(),
        "nothing has changed"
    );
    assert!(log.lines().is_empty());

    fs::write(&path, "two\none\n").unwrap();
    let seen = timeout(SECRET_POLL_INTERVAL * 2, changes.recv()).await;
    assert_eq!(seen.unwrap().unwrap(), secrets(&["two", "one"]));
    // The same secrets written again are no change.
    fs::write(&path, "two\r\none").unwrap();
    assert!(timeout(LONG, changes.recv()).await.is_err());

    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(" INFO ") && lines[0].contains("secrets=2"),
        "{lines:?}"
    );
    assert!(!lines[0].contains("two"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_useless_file_keeps_the_old_secrets_and_is_told_once() {
    let dir = Dir::new("bad");
    let path = dir.file("one");
    let (mut changes, log) = watch(path.clone());
    fs::write(&path, b"hunter\xff").unwrap();
    assert!(timeout(LONG, changes.recv()).await.is_err());
    fs::remove_file(&path).unwrap();
    assert!(timeout(LONG, changes.recv()).await.is_err());

    let lines = log.lines();
    assert_eq!(lines.len(), 2, "one line a reason: {lines:?}");
    assert!(
        lines[0].contains(" WARN ") && lines[0].contains("is not UTF-8"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains(" WARN ") && lines[1].contains("cannot be read"),
        "{lines:?}"
    );
    assert!(!lines[0].contains("hunter"), "{lines:?}");

    fs::write(&path, "two").unwrap();
    let seen = timeout(LONG, changes.recv()).await.unwrap();
    assert_eq!(seen.unwrap(), secrets(&["two"]));
}

#[tokio::test(start_paused = true)]
async fn a_link_swapped_above_the_file_is_seen() {
    let dir = Dir::new("swap");
    for (version, content) in [("v1", "one"), ("v2", "two")] {
        fs::create_dir_all(dir.0.join(version)).unwrap();
        fs::write(dir.0.join(version).join("secret"), content).unwrap();
    }
    let data = dir.0.join("..data");
    symlink("v1", &data).unwrap();
    let path = dir.0.join("secret");
    symlink("..data/secret", &path).unwrap();
    let (mut changes, _log) = watch(path);
    assert!(timeout(LONG, changes.recv()).await.is_err());

    // What the kubelet does: a new link, renamed over the old one.
    let next = dir.0.join("..data_tmp");
    symlink("v2", &next).unwrap();
    fs::rename(&next, &data).unwrap();
    let seen = timeout(LONG, changes.recv()).await.unwrap();
    assert_eq!(seen.unwrap(), secrets(&["two"]));
}
