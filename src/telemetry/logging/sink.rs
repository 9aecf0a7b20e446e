//! Where lines end up: stderr, a file that is set aside by size, or the syslog socket.
//!
//! Runs on the log's writer thread alone, so that it may block. Never formats an event, and never logs.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
};

use tracing::Level;

use super::LoggingError;

/// How many old files are kept: FILE.1 (the youngest) to FILE.10.
const OLD_FILES: u32 = 10;
/// Where syslog daemons listen: Linux, then the BSDs and macOS.
pub(super) const SYSLOG_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// Syslog's facility `daemon`, in the place it has in a priority.
const FACILITY_DAEMON: u8 = 3 << 3;

/// A destination.
pub(super) trait Sink: Send {
    /// Writes whole lines, each ended by a line break.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;
}

/// Stderr.
pub(super) struct Console;

impl Sink for Console {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(lines)
    }
}

/// A file that is appended to. Before it would grow beyond its limit it is renamed to FILE.1, FILE.1 to FILE.2,
/// and so on; the oldest goes. A file that somebody else has moved away or removed is opened anew.
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    size: u64,
    /// In bytes; None never rotates. Nothing but a regular file has a limit: a terminal cannot be set aside.
    limit: Option<u64>,
}

impl RotatingFile {
    pub(super) fn open(path: PathBuf, limit: Option<u64>) -> io::Result<Self> {
        let file = append(&path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            path,
            file,
            size: metadata.len(),
            limit: limit.filter(|_| metadata.is_file()),
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = append(&self.path)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    /// Whether the path still leads to the open file.
    fn in_place(&self) -> bool {
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(here)) => there.dev() == here.dev() && there.ino() == here.ino(),
            _ => false,
        }
    }

    fn set_aside(&mut self) -> io::Result<()> {
        for old in (1..OLD_FILES).rev() {
            match fs::rename(numbered(&self.path, old), numbered(&self.path, old + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        self.reopen()
    }
}

impl Sink for RotatingFile {
    fn write(&mut self, mut lines: &[u8]) -> io::Result<()> {
        if !self.in_place() {
            self.reopen()?;
        }
        while !lines.is_empty() {
            let room = match self.limit {
                Some(limit) => {
                    usize::try_from(limit.saturating_sub(self.size)).unwrap_or(usize::MAX)
                }
                None => usize::MAX,
            };
            let mut fitting = whole_lines(lines, room);
            if fitting == 0 {
                // A directory that does not let us rename is no reason to lose lines: the file grows then.
                if self.size == 0 || self.set_aside().is_err() {
                    fitting = first_line(lines);
                } else {
                    continue;
                }
            }
            let (now, later) = lines.split_at(fitting);
            self.file.write_all(now)?;
            self.size += now.len() as u64;
            lines = later;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The length of the whole lines that fit into `room` bytes.
fn whole_lines(lines: &[u8], room: usize) -> usize {
    if lines.len() <= room {
        return lines.len();
    }
    lines[..room]
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1)
}

fn first_line(lines: &[u8]) -> usize {
    lines
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(lines.len(), |end| end + 1)
}

/// The machine's syslog: one datagram a line. The daemon adds the time.
pub(super) struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Syslog {
    /// Connects to the first of `sockets` that takes datagrams.
    pub(super) fn connect(sockets: &[&str]) -> Result<Self, LoggingError> {
        let found = sockets.iter().find_map(|path| {
            let path = PathBuf::from(path);
            connect(&path).ok().map(|socket| Self { socket, path })
        });
        found.ok_or_else(|| LoggingError::Syslog {
            tried: sockets.join(", "),
        })
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

impl Sink for Syslog {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        for line in lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            if self.socket.send(line).is_err() {
                // The daemon has been restarted: its socket is another one now.
                self.socket = connect(&self.path)?;
                self.socket.send(line)?;
            }
        }
        Ok(())
    }
}

/// What syslog wants before a line: `<priority>name[process]: `.
pub(super) fn syslog_header(level: Level) -> String {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let priority = FACILITY_DAEMON + severity;
    format!(
        "<{priority}>{}[{}]: ",
        env!("CARGO_PKG_NAME"),
        std::process::id()
    )
}
