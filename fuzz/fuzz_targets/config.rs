//! The configuration: a TOML file, and after a line `#env` variables of the environment, one per line.
//!
//! Whoever writes these is trusted; what must not happen is that a mistake ends in anything but a sentence with its place.
#![no_main]

use std::collections::BTreeMap;

use items_listen::config::environment::Variables;
use items_listen::config::read;
use libfuzzer_sys::{Corpus, fuzz_target};

const FILE: &str = "config.toml";

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    // These keys make it read files, and whatever a fuzzer names there is not to be opened.
    if text.to_ascii_lowercase().contains("_file") {
        return Corpus::Reject;
    }
    let (text, environment) = text.split_once("\n#env\n").unwrap_or((text, ""));
    let real: BTreeMap<String, String> =
        environment.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
    let borrowed = BTreeMap::new();
    let read = || read::config(FILE, !text.is_empty(), text, &Variables::new(&real, &borrowed));
    match (read(), read()) {
        (Ok(one), Ok(two)) => {
            assert_eq!(one.hash, two.hash, "one text, two hashes");
            for (one, two) in one.watches.iter().zip(&two.watches) {
                assert_eq!(one.policy_hash(), two.policy_hash(), "one text, two policies");
            }
        }
        (Err(one), Err(two)) => {
            assert_eq!(one, two, "one text, other mistakes");
            assert!(!one.is_empty(), "refused without a reason");
            let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
            for mistake in one {
                assert!(!mistake.what.trim().is_empty(), "a mistake at {} without words", mistake.place);
                let variable = real.contains_key(&mistake.place) || mistake.place == "DATABASE_URL" && !real.is_empty();
                assert!(variable || is_in(&lines, &mistake.place), "{mistake} is nowhere");
            }
        }
        (one, two) => panic!("read once it is {one:?}, read twice it is {two:?}"),
    }
    Corpus::Keep
});

/// Whether `config.toml:line:column` is a place of a text with lines of such lengths; the column may be the one after the
/// last character.
fn is_in(lines: &[usize], place: &str) -> bool {
    let mut parts = place.strip_prefix(FILE).unwrap_or_default().split(':').skip(1).map(str::parse::<usize>);
    let (Some(Ok(line)), Some(Ok(column)), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let Some(&length) = line.checked_sub(1).and_then(|index| lines.get(index)) else { return false };
    (1..=length + 1).contains(&column)
}
