//! `docs/configuration.md` says what the table of settings says.

use std::{env, fs, path::Path};

#[test]
fn the_reference_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = trunkline::config::reference();
    if env::var_os("TRUNKLINE_WRITE_DOCS").is_some() {
        fs::write(&file, &page).expect("docs/ can be written");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    for (line, (is, should)) in written.lines().zip(page.lines()).enumerate() {
        assert_eq!(
            is,
            should,
            "docs/configuration.md, line {}; TRUNKLINE_WRITE_DOCS=1 cargo test --test configuration writes it anew",
            line + 1
        );
    }
    assert_eq!(written, page, "docs/configuration.md is longer or shorter");
}
