use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::auth::DynValidator;

const NOW: u64 = 1_786_752_000;

fn validator(secret: &str) -> TokenValidator {
    TokenValidator::new(vec![Secret::new(secret)], Clock::fixed(NOW))
}

/// The verdict in one word: the reason, or `ok`.
fn verdict(validator: &TokenValidator, token: &[u8]) -> &'static str {
    validator
        .check(token)
        .map_or_else(|error| error.reason(), |()| "ok")
}

/// A token with a right MAC over any payload.
fn signed(secret: &Secret, payload: &[u8]) -> Vec<u8> {
    let mut token = vec![ALGORITHM_HMAC_SHA256];
    token.extend_from_slice(&secret.mac(payload).finalize().into_bytes());
    token.extend_from_slice(payload);
    token
}

#[test]
fn a_token_is_good_until_its_last_second_is_over() {
    let secret = Secret::new("s");
    let (clock, hand) = Clock::manual(NOW);
    let validator = TokenValidator::new(vec![secret.clone()], clock);
    let token = mint(&secret, NOW + 10);
    assert_eq!(verdict(&validator, &token), "ok");
    hand.advance(10);
    assert_eq!(verdict(&validator, &token), "ok");
    hand.advance(1);
    assert_eq!(
        validator.check(&token).unwrap_err().to_string(),
        "token expired 1s ago"
    );
    hand.advance(3 * 3600 + 12 * 60);
    assert_eq!(
        validator.check(&token).unwrap_err().to_string(),
        "token expired 3h 12m ago"
    );
}

#[test]
fn checks_come_in_order() {
    let (ours, other) = (Secret::new("ours"), Secret::new("other"));
    let validator = validator("ours");
    // Everything is wrong with the first; each next one mends what the one before was refused for.
    let mut short = signed(&other, b"yesterday");
    short[0] = 9;
    assert_eq!(verdict(&validator, &short), "too_short");
    let mut algorithm = signed(&other, b"yesterday!");
    algorithm[0] = 9;
    assert_eq!(verdict(&validator, &algorithm), "algorithm");
    assert_eq!(
        verdict(&validator, &signed(&other, b"yesterday!")),
        "bad_signature"
    );
    assert_eq!(
        verdict(&validator, &signed(&ours, b"yesterday!")),
        "bad_number"
    );
    assert_eq!(verdict(&validator, &mint(&ours, NOW - 1)), "expired");
    assert_eq!(verdict(&validator, &mint(&ours, NOW)), "ok");
}

#[test]
fn numbers_that_are_hard_to_read() {
    let secret = Secret::new("s");
    let validator = validator("s");
    let cases: [(&[u8], &str); 15] = [
        (b"+1786752000", "ok"),
        (b"000000000000000000000000000001786752000", "ok"),
        (b"+0009223372036854775807", "ok"),
        (b"9223372036854775808", "bad_number"),
        (b"99999999999999999999999", "bad_number"),
        (b"++1786752000", "bad_number"),
        (b"+-1786752000", "bad_number"),
        (b"-1786752000", "bad_number"),
        (b"-0000000000", "bad_number"),
        (b"1786752000+", "bad_number"),
        (b"1786752000\0", "bad_number"),
        (b"17867\xff\xfe000", "bad_number"),
        ("１７８６７５２０００".as_bytes(), "bad_number"),
        (b"0000000000", "expired"),
        (b"+000000000", "expired"),
    ];
    for (payload, expected) in cases {
        assert_eq!(
            verdict(&validator, &signed(&secret, payload)),
            expected,
            "{}",
            payload.escape_ascii()
        );
    }
    assert_eq!(
        verdict(&validator, &signed(&secret, b"+123456789")),
        "expired",
        "the plus counts as a character"
    );
}

#[test]
fn secrets_are_rotated_while_running() {
    let (old, new) = (Secret::new("old"), Secret::new("new"));
    let validator = TokenValidator::new(vec![old.clone()], Clock::fixed(NOW));
    let handle = validator.secrets();
    let verdicts = || {
        (
            verdict(&validator, &mint(&old, NOW)),
            verdict(&validator, &mint(&new, NOW)),
        )
    };

    assert_eq!(verdicts(), ("ok", "bad_signature"));
    handle.set_secrets(vec![new.clone(), old.clone()]);
    assert_eq!(verdicts(), ("ok", "ok"));
    handle.set_secrets(vec![new.clone()]);
    assert_eq!(verdicts(), ("bad_signature", "ok"));
    handle.set_secrets(Vec::new());
    assert_eq!(verdicts(), ("bad_signature", "bad_signature"));
    assert!(handle.is_empty());
}

#[test]
fn a_minted_token_is_always_long_enough_and_in_range() {
    let secret = Secret::new("s");
    assert_eq!(&mint(&secret, 7)[PAYLOAD_AT..], b"0000000007");
    assert_eq!(
        &mint(&secret, u64::MAX)[PAYLOAD_AT..],
        b"9223372036854775807"
    );
    let validator = validator("s");
    assert_eq!(verdict(&validator, &mint(&secret, 7)), "expired");
    assert_eq!(verdict(&validator, &mint(&secret, u64::MAX)), "ok");
}

#[test]
fn debug_shows_no_secret() {
    let secret = Secret::new("hunter2");
    assert_eq!(format!("{secret:?}"), "Secret");
    let validator = TokenValidator::new(vec![secret.clone(), secret], Clock::fixed(7));
    assert_eq!(
        format!("{validator:?}"),
        "TokenValidator { secrets: Secrets { len: 2, .. }, clock: Clock(Fixed(7)) }"
    );
}

#[test]
fn only_the_probe_is_taken_for_the_probe() {
    let prober = PeerId::from_name(b"healthcheck-agent");
    let mut token = vec![0; PAYLOAD_AT];
    token[0] = 1;
    token.extend_from_slice(b"healthcheck");
    let is_probe = |peer: &PeerId, token: &[u8]| {
        is_health_probe(&AuthRequest {
            peer,
            token,
            remote: None,
        })
    };
    assert!(is_probe(&prober, &token));
    assert_eq!(
        verdict(&validator("s"), &token),
        "bad_signature",
        "and it is let in no more than anyone else"
    );

    assert!(!is_probe(&PeerId::from_name(b"alice"), &token));
    assert!(!is_probe(&prober, &token[..token.len() - 1]));
    assert!(!is_probe(&prober, &token[..PAYLOAD_AT]));
    assert!(!is_probe(&prober, &token[1..]));
    assert!(!is_probe(&prober, b""));
    assert!(!is_probe(&prober, &mint(&Secret::new("s"), NOW)));
}

#[tokio::test]
async fn as_a_validator_it_goes_by_the_token_alone() {
    let secret = Secret::new("s");
    let validator: Box<dyn DynValidator> = Box::new(validator("s"));
    let (good, expired) = (mint(&secret, NOW), mint(&secret, NOW - 60));
    for name in [b"alice".as_slice(), b"healthcheck-agent"] {
        let peer = PeerId::from_name(name);
        let request = AuthRequest {
            peer: &peer,
            token: &good,
            remote: None,
        };
        assert!(validator.validate_boxed(&request).await.is_ok());
        let error = validator
            .validate_boxed(&AuthRequest {
                token: &expired,
                ..request
            })
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "token expired 1m 0s ago");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused(token in vec(any::<u8>(), 0..=200), algorithm: bool) {
        let mut token = token;
        if let (true, Some(first)) = (algorithm, token.first_mut()) {
            *first = ALGORITHM_HMAC_SHA256;
        }
        prop_assert!(validator("s").check(&token).is_err());
    }

    #[test]
    fn any_signed_payload_is_good_only_as_a_number_not_in_the_past(
        payload in prop_oneof![
            "[+-]?[0-9]{8,25}".prop_map(String::into_bytes),
            "[ -~]{8,20}".prop_map(String::into_bytes),
            vec(any::<u8>(), 0..=170),
        ],
    ) {
        let good = validator("s").check(&signed(&Secret::new("s"), &payload)).is_ok();
        // The same rule, told the other way round: as a number of any size.
        let text = str::from_utf8(&payload).unwrap_or("not a number");
        let number = text.parse::<i128>().ok().filter(|n| (i128::from(NOW)..1 << 63).contains(n));
        prop_assert_eq!(good, payload.len() >= 10 && number.is_some());
    }

    #[test]
    fn minted_is_accepted_by_its_own_secret_until_it_expires(secret in "[\\PC]{1,40}", expiry in 0..=1_u64 << 63) {
        let validator = validator(&secret);
        let token = mint(&Secret::new(&secret), expiry);
        prop_assert_eq!(verdict(&validator, &token), if expiry < NOW { "expired" } else { "ok" });
        prop_assert!(token.len() <= 170, "it fits into an auth message");
    }

    #[test]
    fn minted_with_another_secret_is_refused(ours in "[a-z]{1,20}", other in "[A-Z]{1,20}", expiry in NOW..NOW * 2) {
        let token = mint(&Secret::new(&other), expiry);
        prop_assert_eq!(verdict(&validator(&ours), &token), "bad_signature");
    }

    #[test]
    fn a_cut_or_lengthened_token_is_refused(expiry in NOW..NOW * 2, keep in any::<Index>(), more in vec(any::<u8>(), 1..20)) {
        let validator = validator("s");
        let token = mint(&Secret::new("s"), expiry);
        prop_assert!(validator.check(&token[..keep.index(token.len())]).is_err());
        let longer = [token, more].concat();
        prop_assert_eq!(verdict(&validator, &longer), "bad_signature");
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    let validator = validator("s");
    let token = mint(&Secret::new("s"), NOW + 3600);
    assert_eq!(verdict(&validator, &token), "ok");
    for bit in 0..token.len() * 8 {
        let mut flipped = token.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 8 {
            "algorithm"
        } else {
            "bad_signature"
        };
        assert_eq!(verdict(&validator, &flipped), expected, "bit {bit}");
    }
}
