//! The little that a relay knows of WireGuard: which messages open or keep a session.

/// Whether a transport payload has the form of a handshake message: initiation (type 1, 148 bytes), response (2, 92) or cookie
/// reply (3, 64). All else, keep-alives included, is data.
///
/// Only the form is looked at: anybody can send such bytes. Source: the WireGuard paper, section 5.4.
#[must_use]
pub fn is_handshake(payload: &[u8]) -> bool {
    matches!(
        (payload.first(), payload.len()),
        (Some(1), 148) | (Some(2), 92) | (Some(3), 64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_size_must_fit_each_other() {
        for (kind, len) in [(1, 148), (2, 92), (3, 64)] {
            let mut payload = vec![0; len];
            payload[0] = kind;
            assert!(is_handshake(&payload));
            payload.push(0);
            assert!(!is_handshake(&payload));
            payload.pop();
            payload[0] = kind % 3 + 1;
            assert!(!is_handshake(&payload));
            payload[0] = 4;
            assert!(!is_handshake(&payload));
        }
        assert!(!is_handshake(&[]));
    }
}
