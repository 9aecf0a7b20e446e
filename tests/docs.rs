//! The pages say what is so: every flag, variable, link and file they name exists, and the shell blocks marked for it run.
//!
//! A block that begins with ```` ```sh run ```` is run as a reader would: all of a page one after the other, in one shell, in an empty
//! directory, with `trunkline` in the path. The shell has a network of its own, so ports may be written as they are. (Metrics are
//! looked for in `tests/watch.rs`, which has programs that show them.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Flags of other programs that pages name. One that no page names has to go.
const FLAGS_OF_OTHERS: &[&str] = &[
    "--all-targets",
    "--bench",
    "--build",
    "--config",
    "--doc",
    "--example",
    "--features",
    "--from-file",
    "--image",
    "--lib",
    "--markdown",
    "--no-build",
    "--no-deps",
    "--nocapture",
    "--now",
    "--only",
    "--open",
    "--output",
    "--pin",
    "--plots",
    "--previous",
    "--quick",
    "--relay",
    "--release",
    "--reuse-values",
    "--rounds",
    "--set",
    "--strip",
    "--target",
    "--test",
];

/// Variables that are no settings.
const VARIABLES_OF_TESTS: &[&str] = &[
    "TRUNKLINE_NETNS_CUT",
    "TRUNKLINE_NETNS_PAIRS",
    "TRUNKLINE_SIM_SEED",
    "TRUNKLINE_SIM_SEEDS",
    "TRUNKLINE_STORM_PEERS",
    "TRUNKLINE_WRITE_DOCS",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page of Markdown.
struct Page {
    /// Below the repository's root.
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: &Path) -> Self {
        Self {
            path: path.strip_prefix(root()).unwrap().to_owned(),
            text: fs::read_to_string(path).unwrap(),
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether it tells what was decided or done once, and is not rewritten when that changes.
    fn is_history(&self) -> bool {
        self.path.starts_with("docs/adr")
    }

    /// What is in its blocks of code, with what stands behind the three marks that open each.
    fn blocks(&self) -> Vec<(String, String)> {
        let mut blocks: Vec<(String, String)> = Vec::new();
        let mut indent = None;
        for line in self.text.lines() {
            let text = line.trim_start();
            if let Some(info) = text.strip_prefix("```") {
                indent = match indent {
                    None => {
                        blocks.push((info.trim().to_owned(), String::new()));
                        Some(line.len() - text.len())
                    }
                    Some(_) => None,
                };
            } else if let Some(indent) = indent {
                let block = &mut blocks.last_mut().unwrap().1;
                block.push_str(line.get(indent..).unwrap_or_default());
                block.push('\n');
            }
        }
        assert!(indent.is_none(), "{}: a block does not end", self.name());
        blocks
    }

    /// Its text without the blocks of code.
    fn prose(&self) -> String {
        let parts = self.text.split("```");
        parts.step_by(2).collect()
    }

    /// The names that a link's `#` may lead to: headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                let kept = title
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.map(|c| if c == ' ' { '-' } else { c }).collect()
            })
            .collect()
    }
}

fn collect(dir: &Path, found: &mut Vec<Page>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(Page::read(&path));
        }
    }
}

/// All pages.
fn pages() -> Vec<Page> {
    let mut pages = vec![Page::read(&root().join("README.md"))];
    collect(&root().join("docs"), &mut pages);
    assert!(pages.len() > 60, "{}", pages.len());
    pages
}

/// Words of `text` that begin with `start`, up to the first letter that cannot be in them.
fn words(text: &str, start: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<String> {
    let places = text.match_indices(start).filter(|(at, _)| {
        // Not in the middle of another word.
        let before = text[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "-_/.".contains(c))
    });
    places
        .map(|(at, _)| {
            let text = &text[at..];
            let end = start.len()
                + text[start.len()..]
                    .find(|c| !is_part(c))
                    .unwrap_or(text.len() - start.len());
            text[..end]
                .trim_end_matches(['-', '_', '.', '/'])
                .to_owned()
        })
        .collect()
}

fn help(args: &[&str]) -> String {
    let program = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(args)
        .arg("--help")
        .output()
        .unwrap();
    assert!(program.status.success());
    String::from_utf8(program.stdout).unwrap()
}

/// The flags that a text names, with their two hyphens.
fn flags(text: &str) -> BTreeSet<String> {
    let found = words(text, "--", |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
    });
    found
        .into_iter()
        .filter(|flag| {
            flag.get(2..)
                .unwrap_or_default()
                .starts_with(|c: char| c.is_ascii_lowercase())
        })
        .collect()
}

/// The variable of each flag, without its prefix; and those that are read under their whole name alone.
fn variables() -> (BTreeSet<String>, BTreeSet<String>) {
    let own = flags(&help(&[]));
    let names = own
        .iter()
        .map(|flag| flag[2..].to_uppercase().replace('-', "_"))
        .collect();
    let reference = trunkline::config::reference();
    let mut whole = BTreeSet::new();
    for prefix in ["OZ_", "NB_", "POD_"] {
        whole.extend(words(&reference, prefix, |c| {
            c.is_ascii_uppercase() || c == '_'
        }));
    }
    (names, whole)
}

#[test]
fn every_flag_and_variable_exists() {
    let ours: BTreeSet<String> = [&[][..], &["demo"], &["load"]]
        .iter()
        .flat_map(|args| flags(&help(args)))
        .chain(["--help".to_owned(), "--version".to_owned()])
        .collect();
    let (names, whole) = variables();
    let mut foreign: BTreeSet<&str> = FLAGS_OF_OTHERS
        .iter()
        .chain(VARIABLES_OF_TESTS)
        .copied()
        .collect();
    let mut wrong = Vec::new();
    for page in pages().iter().filter(|page| !page.is_history()) {
        for flag in flags(&page.text) {
            // `--cluster-tls-...` and the like: all that begin so.
            let family = page.text.contains(&format!("{flag}-..."));
            let known =
                ours.contains(&flag) || (family && ours.iter().any(|one| one.starts_with(&flag)));
            let is_foreign = FLAGS_OF_OTHERS.contains(&flag.as_str());
            foreign.remove(flag.as_str());
            if !known && !is_foreign {
                wrong.push(format!("{}: no flag {flag}", page.name()));
            }
        }
        for prefix in ["TRUNKLINE_", "OZ_", "NB_"] {
            for variable in words(&page.text, prefix, |c| {
                c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
            }) {
                let is_foreign = VARIABLES_OF_TESTS.contains(&variable.as_str());
                foreign.remove(variable.as_str());
                let name = variable.strip_prefix(prefix).unwrap_or_default();
                if !is_foreign
                    && !name.is_empty()
                    && !names.contains(name)
                    && !whole.contains(&variable)
                {
                    wrong.push(format!("{}: no variable {variable}", page.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        foreign.is_empty(),
        "in the list of others', but on no page: {foreign:?}"
    );
}

/// The targets of a page's links.
fn links(prose: &str) -> Vec<&str> {
    let ends = prose.match_indices("](");
    ends.filter_map(|(at, _)| Some(prose[at + 2..].split_once(')')?.0))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in &pages {
        let prose = page.prose();
        for link in links(&prose) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link
                .split_once('#')
                .map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let dir = root().join(page.path.parent().unwrap());
            let target = if file.is_empty() {
                root().join(&page.path)
            } else {
                dir.join(file)
            };
            if !target.exists() {
                wrong.push(format!("{}: {link} is not there", page.name()));
            } else if let Some(anchor) = anchor {
                let target = Page::read(&target.canonicalize().unwrap());
                if !target.anchors().contains(anchor) {
                    wrong.push(format!("{}: {link}: no such heading", page.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_that_is_named_exists() {
    let mut wrong = Vec::new();
    for page in pages().iter().filter(|page| !page.is_history()) {
        // Links are relative to their page, and looked at above.
        let text = page.text.replace("](", "](/");
        for dir in ["src/", "tests/", "benches/", "deploy/", "docs/", ".ci/"] {
            for file in words(&text, dir, |c| {
                c.is_ascii_alphanumeric() || "/._-".contains(c)
            }) {
                // NNNN stands for a number.
                if !root().join(&file).exists() && !file.contains("NNNN") {
                    wrong.push(format!("{}: no file {file}", page.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_index_leads_to_every_page() {
    let index = Page::read(&root().join("docs/README.md"));
    let prose = index.prose();
    let linked: BTreeSet<_> = links(&prose).into_iter().collect();
    for page in pages() {
        let Ok(below) = page.path.strip_prefix("docs") else {
            continue;
        };
        let name = below.display().to_string();
        // Those have an index of their own, or are listed by their folder or by `protocol.md`.
        let by_folder = ["adr/", "runbooks/", "spec/", "README.md"]
            .iter()
            .any(|dir| name.starts_with(dir));
        assert!(
            by_folder || linked.contains(&*name),
            "docs/README.md does not lead to {name}"
        );
    }
    assert!(
        Page::read(&root().join("README.md"))
            .text
            .contains("](docs/README.md)")
    );
    let protocol = Page::read(&root().join("docs/protocol.md")).text;
    for page in pages()
        .iter()
        .filter(|page| page.path.starts_with("docs/spec"))
    {
        let name = page
            .path
            .strip_prefix("docs")
            .unwrap()
            .display()
            .to_string();
        assert!(
            protocol.contains(&format!("]({name})")),
            "docs/protocol.md does not lead to {name}"
        );
    }
}

/// `unshare` with a network, processes and mounts of its own, if that can be had here.
fn unshare() -> Option<Command> {
    let flags = [
        "--map-root-user",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    let mut command = Command::new("unshare");
    command.args(flags).stdin(Stdio::null());
    let mut tried = Command::new("unshare");
    let tried = tried
        .args(flags)
        .args(["sh", "-c", "ip link set lo up"])
        .output();
    let is_there = |program, version| Command::new(program).arg(version).output().is_ok();
    (tried.is_ok_and(|tried| tried.status.success())
        && is_there("curl", "--version")
        && is_there("openssl", "version"))
    .then_some(command)
}

#[test]
fn the_marked_blocks_run() {
    let mut ran = 0;
    for page in pages() {
        let blocks = page.blocks();
        let marked: String = blocks
            .into_iter()
            .filter(|(info, _)| info == "sh run")
            .map(|(_, block)| block)
            .collect();
        if marked.is_empty() {
            continue;
        }
        ran += 1;
        let Some(mut shell) = unshare() else {
            eprintln!("skipped: the_marked_blocks_run: no curl, no openssl, or no namespaces here");
            return;
        };
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("docs")
            .join(page.name().replace('/', "-"));
        let _absent = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("bin")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_trunkline"), dir.join("bin/trunkline"))
            .unwrap();
        fs::create_dir_all(dir.join("here")).unwrap();
        let script = format!(
            "set -euxo pipefail\nip link set lo up\nexport PATH=\"$PWD/../bin:$PATH\"\n{marked}"
        );
        fs::write(dir.join("script"), script).unwrap();
        // A page that waits for what never comes ends, too.
        let output = shell
            .args(["timeout", "120", "bash", "../script"])
            .current_dir(dir.join("here"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}\n{}{}",
            page.name(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(ran > 1, "{ran} pages");
}
