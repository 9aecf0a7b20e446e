//! What the program says of itself.

use super::*;

fn help() -> String {
    match parse_text(&["--help"], &[]) {
        Err(ConfigError::Text(text)) => text,
        other => panic!("no help: {other:?}"),
    }
}

#[test]
fn help_tells_every_row_of_the_table() {
    let help = help();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let flat = words(&help);
    for setting in flags::ALL {
        let head = match (setting.short, setting.kind) {
            (Some(short), _) => format!("-{short}, --{} <{}>", setting.name, setting.hint),
            (None, flags::Kind::Switch) => format!(" --{}[=<{}>]", setting.name, setting.hint),
            (None, _) => format!(" --{} <{}>", setting.name, setting.hint),
        };
        assert!(help.contains(&head), "{head} is not in the help:\n{help}");
        assert!(
            flat.contains(&words(setting.help)),
            "{} lacks its words",
            setting.name
        );
        if let Some(default) = setting.default {
            assert!(
                flat.contains(&format!("[default: {default}]")),
                "{}",
                setting.name
            );
        }
    }
    let headings = [
        "Listening:",
        "Identity:",
        "Queues and limits:",
        "Logging:",
        "Environment:",
        "Examples:",
    ];
    let places: Vec<_> = headings.iter().map(|heading| help.find(heading)).collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{places:?}"
    );
    for prefix in env::PREFIXES {
        assert!(help.contains(&format!("{prefix}LOG_LEVEL")), "{prefix}");
    }
    assert!(help.contains("Exit codes:") && help.contains("  demo  ") && help.contains("  load  "));
    assert!(
        help.lines().all(|line| line.chars().count() <= 100),
        "{help}"
    );
}

#[test]
fn the_table_names_nothing_twice() {
    let mut names = HashSet::new();
    let mut shorts = HashSet::from(['h', 'V']);
    for setting in flags::ALL {
        assert!(names.insert(setting.name), "{}", setting.name);
        assert!(
            setting.short.is_none_or(|short| shorts.insert(short)),
            "{}",
            setting.name
        );
    }
    // Clap looks for names given twice, the hidden ones included, and for other contradictions.
    flags::command(load()).debug_assert();
}

#[test]
fn texts_that_are_asked_for_are_no_mistakes() {
    let Err(version) = parse_text(&["--version"], &[]) else {
        panic!("no version");
    };
    assert_eq!(
        version.to_string(),
        format!("trunkline {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(version.exit_code(), 0);
    let Err(ConfigError::Text(short)) = parse_text(&["--bogus", "-h"], &[]) else {
        panic!("no help");
    };
    assert_eq!(short, help(), "-h and --help are one text, mistakes or not");
    for args in [["load", "--help"], ["help", "load"]] {
        let Err(ConfigError::Text(text)) = parse_text(&args, &[]) else {
            panic!("no help for {args:?}");
        };
        assert!(text.contains("--peers"), "{text}");
    }
}
