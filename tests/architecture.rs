//! The arrows between the rooms of `src/`, as `docs/architecture.md` draws them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Room and the rooms it may use. Everybody may use `proto`, `telemetry` and `time`, which use none but `proto`.
const ARROWS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("time", &[]),
    ("ticks", &[]),
    ("buffers", &[]),
    ("memory", &["ticks"]),
    ("stack", &[]),
    ("sockets", &[]),
    ("source", &[]),
    ("stun", &["source"]),
    ("systemd", &[]),
    ("telemetry", &[]),
    ("reload", &[]),
    ("files", &[]),
    ("tls", &["files", "reload"]),
    (
        "config",
        &["files", "reload", "tls", "proxies", "transport", "cluster"],
    ),
    ("auth", &[]),
    ("crosspod", &[]),
    ("admission", &["source", "transport"]),
    (
        "cluster",
        &[
            "crosspod", "outbox", "buffers", "reload", "sockets", "stack", "ticks", "tls",
        ],
    ),
    ("outbox", &["buffers", "ticks"]),
    ("transport", &["outbox", "buffers", "tls"]),
    ("proxies", &["transport"]),
    ("routing", &["outbox", "transport", "crosspod"]),
    (
        "peer",
        &[
            "admission",
            "routing",
            "stack",
            "auth",
            "transport",
            "outbox",
            "crosspod",
            "ticks",
            "memory",
        ],
    ),
    (
        "relay",
        &[
            "admission",
            "peer",
            "routing",
            "stack",
            "auth",
            "transport",
            "proxies",
            "outbox",
            "crosspod",
            "ticks",
            "memory",
        ],
    ),
    (
        "http",
        &[
            "admission",
            "relay",
            "peer",
            "transport",
            "proxies",
            "stack",
            "tls",
        ],
    ),
    (
        "server",
        &[
            "admission",
            "auth",
            "http",
            "relay",
            "peer",
            "transport",
            "proxies",
            "sockets",
            "stack",
            "stun",
            "cluster",
            "crosspod",
            "outbox",
            "systemd",
            "tls",
            "reload",
        ],
    ),
    ("client", &["auth"]),
    ("load", &["auth", "tls", "transport"]),
    ("demo", &["auth", "client", "cluster", "relay", "server"]),
];

const FOR_EVERYBODY: &[&str] = &["proto", "telemetry", "time"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a file names: `crate::room` anywhere but in comments and in what only tests see.
fn rooms_used(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut rooms = BTreeSet::new();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default();
        for part in line.split("crate::").skip(1) {
            if let Some(group) = part.strip_prefix('{') {
                rooms.extend(
                    group
                        .split([',', '}'])
                        .map(|name| {
                            name.split("::")
                                .next()
                                .unwrap_or_default()
                                .trim()
                                .to_owned()
                        })
                        .filter(|name| !name.is_empty()),
                );
            } else {
                rooms.insert(
                    part.split(|c: char| !c.is_alphanumeric() && c != '_')
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                );
            }
        }
    }
    rooms
}

#[test]
fn no_arrow_points_up() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let below = file.strip_prefix(&root).unwrap();
        let first = below.iter().next().unwrap().to_str().unwrap();
        let room = first.trim_end_matches(".rs");
        let is_test = below
            .iter()
            .any(|part| part.to_string_lossy().contains("tests"));
        if matches!(room, "lib" | "main") || is_test {
            continue;
        }
        seen.insert(room.to_owned());
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            broken.push(format!(
                "{} is a room without a place on the map",
                below.display()
            ));
            continue;
        };
        for used in rooms_used(&std::fs::read_to_string(&file).unwrap()) {
            let fine = used == room
                || allowed.contains(&used.as_str())
                || (FOR_EVERYBODY.contains(&used.as_str()) && room != "proto")
                // Types that `lib.rs` shows at the top belong to the room that everybody above may use.
                || (used == "Relay" && allowed.contains(&"relay"));
            if !fine {
                broken.push(format!("{} uses crate::{used}", below.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken arrows:\n{}", broken.join("\n"));
    assert!(seen.contains("peer") && seen.contains("proto"), "{seen:?}");
}
