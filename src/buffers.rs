//! A pool of equal byte buffers, so that an idle connection owns none and a busy one allocates none.
//!
//! Each thread keeps a few buffers of its own; what overflows goes to a shared shelf and comes back from there in
//! batches. That matters where one thread fills buffers and another empties them: without the shelf the first would
//! allocate for ever and the second free for ever. The pool never hands out a buffer twice and never zeroes one
//! again: a holder reads only what it wrote.

use std::cell::RefCell;

use parking_lot::Mutex;

/// Bytes in one buffer. Large enough for one read of a busy socket to bring some fifty WireGuard packets.
pub(crate) const BUFFER_LEN: usize = 64 * 1024;

/// Buffers a thread keeps for itself.
const CACHE_MAX: usize = 16;
/// Buffers moved between a thread and the shelf at once.
const EXCHANGE: usize = CACHE_MAX / 2;
/// Buffers the shelf keeps; more than that is freed. 256 buffers are 16 MiB.
const SHELF_MAX: usize = 256;

thread_local! {
    static CACHE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}
static SHELF: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// One pooled buffer of [`BUFFER_LEN`] bytes; dropping it gives it back.
///
/// Its content is whatever the last holder left there.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    /// Takes a buffer from the pool, or allocates one if the pool is empty.
    #[must_use]
    pub(crate) fn take() -> Self {
        let cached = CACHE
            .try_with(|cache| {
                let mut cache = cache.borrow_mut();
                if cache.is_empty() {
                    let mut shelf = SHELF.lock();
                    let keep = shelf.len().saturating_sub(EXCHANGE);
                    cache.extend(shelf.drain(keep..));
                }
                cache.pop()
            })
            .ok()
            .flatten();
        Self(cached.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that is ending has no cache any more: the buffer is simply freed then.
        let _ = CACHE.try_with(|cache| {
            let mut cache = cache.borrow_mut();
            if cache.len() >= CACHE_MAX {
                let mut shelf = SHELF.lock();
                let keep = cache.len() - EXCHANGE;
                shelf.extend(cache.drain(keep..));
                shelf.truncate(SHELF_MAX);
            }
            cache.push(buffer);
        });
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Buffer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_to_its_thread() {
        let mut first = Buffer::take();
        first[0] = 0xA5;
        let address = first.as_ptr();
        drop(first);
        let second = Buffer::take();
        assert_eq!(second.as_ptr(), address);
        assert_eq!(second.len(), BUFFER_LEN);
    }
}
