//! Reads a file that somebody has named in the settings. Knows nothing of what is in it.

use std::fs::{File, metadata};
use std::io::{self, Read as _};
use std::path::Path;

/// The whole content of a file that holds at most `most` bytes: more is a wrong path. Blocks on the file system.
///
/// # Errors
/// What the system says; and it is no file but a directory, a pipe or a device, or it is longer.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Asked before opening: opening a pipe nobody writes to would wait for ever.
    if !metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        let most = most / 1024;
        return Err(io::Error::other(format!("it is larger than {most} KiB")));
    }
    Ok(content)
}
